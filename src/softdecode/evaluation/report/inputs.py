"""Which files a report is made of: found, recognised by their content, and checked."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.metrics import METRICS
from softdecode.files import read_json

Kind = Literal["pictures", "geneval", "calibration", "latency"]

_KINDS: dict[str, Kind] = {
    "evaluate reconstruction": "pictures",
    "evaluate generation": "pictures",
    "evaluate folders": "pictures",
    "evaluate geneval": "geneval",
    "calibrate": "calibration",
    "latency": "latency",
    "softdecode-calibration-1": "calibration",
}
_EXPECTED = "result.json of `evaluate` or `calibrate`, calibration.json, or what benchmarks/latency.py --json writes"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file that a report is made of.

    Attributes:
        number: its place in the list of inputs, from 1; rows refer to it.
        path: as it was given, or below the folder that was given.
        sha256: of its bytes.
        kind: what it holds.
        content: what it holds, parsed.
    """

    number: int
    path: Path
    sha256: str
    kind: Kind
    content: dict[str, Any]

    @property
    def command(self) -> str:
        """What made it."""
        return str(self.content.get("command", "calibrate"))

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How it was measured."""
        return self.content.get("protocol", {})

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows by decoder and category, however the command lays them out.

        `evaluate folders` and `evaluate geneval` measure one decoder's pictures, which go by their folder's name, and
        have a row for each category.
        """
        rows = self.content.get("rows", [])
        origin = {"evaluate folders": "images", "evaluate geneval": "results"}.get(self.command)
        if origin is None:
            return rows
        path = Path(str(self.protocol.get(origin, self.path)))
        name = path.name.removesuffix(path.suffix if path.suffix in (".npz", ".jsonl", ".json") else "")
        name = path.parent.name if name in ("results", "result") else name
        name = name or "pictures"  # those of the folder "."
        return [{**row, "name": name, "category": row["name"]} for row in rows]


def find_sources(paths: Iterable[Path]) -> list[Source]:
    """Read files, and search folders for the files that a report knows.

    A file that is named must be one of them, what else lies in a folder is passed over. Files of the same bytes count
    once: the calibration of a run is copied into each of its decoders.

    Raises:
        SoftDecodeError: a named file is something else, a result is damaged, or there is none at all.
    """
    paths = list(paths)
    sources: dict[str, Source] = {}
    for path in paths:
        for file, named in _files(path):
            content = _read(file, named=named)
            if content is None:
                continue
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            if sha256 not in sources:
                source = Source(
                    number=len(sources) + 1, path=file, sha256=sha256, kind=_kind(content, file), content=content
                )
                _check(source)
                sources[sha256] = source
    if not sources:
        raise SoftDecodeError(f"no results in {', '.join(map(str, paths)) or 'nothing'}; expected {_EXPECTED}")
    return list(sources.values())


def _files(path: Path) -> Iterator[tuple[Path, bool]]:
    """Files to look at, in a fixed order, and whether each was named."""
    if not path.is_dir():
        yield path, True
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".json") and not name.startswith("."):
                yield Path(folder, name), False


def _read(path: Path, *, named: bool) -> dict[str, Any] | None:
    """A file's content if a report can use it; None for another file that lies in a folder."""
    if named or path.name in ("result.json", "calibration.json"):
        content = read_json(path)
    else:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
    if isinstance(content, dict) and _mark(content) in _KINDS:
        return content
    if named:
        raise SoftDecodeError(f"{path} is nothing that a report can use; expected {_EXPECTED}")
    return None


def _mark(content: Mapping[str, Any]) -> str:
    return str(content.get("command", content.get("format")))


def _kind(content: Mapping[str, Any], path: Path) -> Kind:
    protocol = content.get("protocol", {})
    parts = [protocol]
    if isinstance(protocol, dict):
        decoders = protocol.get("decoders", {})
        parts += [protocol.get("metrics", {}), decoders, *(decoders.values() if isinstance(decoders, dict) else ())]
    if not all(isinstance(part, dict) for part in parts):
        raise SoftDecodeError(f"{path}: `protocol`, its `metrics` and `decoders` must be objects; measure it again")
    return _KINDS[_mark(content)]


def _check(source: Source) -> None:
    """Refuse rows that cannot be shown, before any table is made."""
    if source.kind not in ("pictures", "geneval"):
        return
    rows = source.content.get("rows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise SoftDecodeError(f"{source.path}: `rows` must be a list of at least one object; measure it again")
    for row in rows:
        if not isinstance(row.get("name"), str):
            raise SoftDecodeError(f"{source.path}: a row has no name; measure it again")
        for name in METRICS.keys() & row.keys():
            METRICS[name].check(row[name], f"{source.path}: {name} of {row['name']}")
    places = [(row["name"], row.get("steps"), row.get("category")) for row in source.rows]
    for place in places:
        if places.count(place) > 1:
            raise SoftDecodeError(f"{source.path}: several rows are called {place[0]}; give each decoder its own name")
