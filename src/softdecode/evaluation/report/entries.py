"""A row of a result, and when two rows are one measurement or one name means two decoders."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from softdecode.evaluation.report.inputs import Source
from softdecode.evaluation.report.metrics import JUDGED

CEILING = "vae-ceiling"
BASELINE = "vq"
OVERALL = "overall"
_LATER = ("dtype", "weights_sha256")  # of a decoder's settings: results of earlier versions lack them
_ROUNDING = 1e-6  # two measurements of the same pictures agree at least so closely


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a result.

    Attributes:
        source: the result.
        row: as it stands there, and `frechet_over_vq` as it is in the table.
        label: the row's name; with its input's number where another input has a different row of that name.
        settings: of the decoder, as the result says; None for baselines.
    """

    source: Source
    row: Mapping[str, Any]
    label: str
    settings: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The decoder or baseline."""
        return str(self.row["name"])

    @property
    def steps(self) -> int | None:
        """Denoising steps, where there are any."""
        return self.row.get("steps")

    @property
    def category(self) -> str:
        """The part of the reference that the row is about."""
        return str(self.row.get("category") or OVERALL)


def place_of(entry: Entry) -> int:
    """The ceiling first, then the VQ decoder and its variants, whatever the order of the inputs."""
    return {CEILING: 0, BASELINE: 1}.get(entry.name, 2 if entry.name.startswith(f"{BASELINE}-") else 3)


def same_measurement(entry: Entry, other: Entry) -> bool:
    """Whether two rows are one measurement made twice, as that of a baseline beside other decoders.

    GenEval's rows are not: models often agree in one of its tags, and are two for all that.
    """
    return (
        entry.source.kind != "geneval"
        and (entry.name, entry.steps, entry.category) == (other.name, other.steps, other.category)
        and _same_settings(entry.settings, other.settings)
        and all(_close(entry.row.get(name), other.row.get(name)) for name in JUDGED if name != "frechet_over_vq")
    )


def _same_settings(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two descriptions are of one decoder; what older results do not say may be missing."""
    if one is None or other is None:
        return one is other
    silent = [name for name in _LATER if name not in one or name not in other]
    first, second = ({name: said for name, said in each.items() if name not in silent} for each in (one, other))
    return first == second


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=_ROUNDING)


def labelled(entries: Sequence[Entry]) -> list[Entry]:
    """Number rows by their inputs where inputs contradict each other about a name, or mean other decoders by it."""
    sources: dict[str, set[int]] = {}
    settings: dict[str, list[Mapping[str, Any] | None]] = {}
    places: dict[tuple[str, int | None, str], int] = {}
    for entry in entries:
        sources.setdefault(entry.name, set()).add(entry.source.number)
        settings.setdefault(entry.name, []).append(entry.settings)
        place = (entry.name, entry.steps, entry.category)
        places[place] = places.get(place, 0) + 1
    unclear = {name for (name, _, _), count in places.items() if count > 1}
    unclear |= {name for name, found in settings.items() if not all(_same_settings(other, found[0]) for other in found)}
    unclear = {name for name in unclear if len(sources[name]) > 1}
    return [
        replace(entry, label=f"{entry.name} [{entry.source.number}]") if entry.name in unclear else entry
        for entry in entries
    ]
