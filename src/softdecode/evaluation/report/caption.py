"""A table's protocol in one line, so that no number stands without the conditions that it holds under."""

from collections.abc import Iterable, Mapping
from typing import Any

from softdecode.evaluation.report.entries import Entry
from softdecode.evaluation.report.inputs import Source
from softdecode.evaluation.report.metrics import is_fid
from softdecode.evaluation.report.pool import Pool

_DIGITS = 8  # of a SHA-256; the JSON files have them whole


def describe(pool: Pool, entries: Iterable[Entry]) -> str:
    """Reference, count, resolution, resizer, extractor, seeds, noise scale and inputs of some rows of a pool."""
    protocol = pool.protocol
    scales = {entry.settings["noise_scale"] for entry in entries if entry.settings and "noise_scale" in entry.settings}
    parts = [
        _named("reference", protocol.get("reference")),
        _hashed("data", protocol),
        _count(protocol),
        _resolution(protocol.get("resolution")),
        _named("crop", protocol.get("crop")),
        _named("resizer", protocol.get("resizer")),
        _extractor(protocol),
        _named("prompts", protocol.get("prompts")),
        _settings("sampling", protocol.get("sampling")),
        several("noise scale", scales),
        several("seed", {source.protocol.get("seed") for source in pool.sources}),
        inputs_of(pool.sources),
    ]
    return "; ".join(part for part in parts if part)


def inputs_of(sources: Iterable[Source]) -> str:
    """Which inputs a table is made of, by their numbers."""
    numbers = "".join(f"[{source.number}]" for source in sources)
    return f"input {numbers}" if numbers.count("[") == 1 else f"inputs {numbers}"


def several(what: str, values: Iterable[Any]) -> str:
    """ "seed 0", "seed 0 and 1" or nothing."""
    said = sorted(str(value) for value in values if value is not None)
    return f"{what} {' and '.join(said)}" if said else ""


def _named(name: str, value: object) -> str:
    return f"{name}: {value}" if isinstance(value, str) and value else ""


def _hashed(name: str, protocol: Mapping[str, Any]) -> str:
    value = protocol.get(f"{name}_sha256")
    return f"{name} {str(value)[:_DIGITS]}" if value else ""


def _count(protocol: Mapping[str, Any]) -> str:
    count = protocol.get("count")
    if count is None:
        return ""
    references = protocol.get("reference_count", count)
    against = "" if references == count else f" against {references}"
    return f"{count} pictures{against}" + ("" if protocol.get("whole_split", True) else ", a part of the split")


def _resolution(size: object) -> str:
    return "×".join(str(length) for length in size) + " px" if isinstance(size, list) else ""


def _extractor(protocol: Mapping[str, Any]) -> str:
    metrics = protocol.get("metrics", {})
    name = metrics.get("extractor")
    if not name:
        return ""
    sha256 = str(metrics.get("extractor_sha256", ""))[:_DIGITS]
    said = f"extractor {name}" + (f" ({sha256})" if sha256 else "")
    return said if is_fid(protocol) else f"{said}: not FID"


def _settings(name: str, values: object) -> str:
    if not isinstance(values, Mapping):
        return ""
    return f"{name}: " + ", ".join(f"{key} {value}" for key, value in values.items())
