"""Table 5: what soft decoding costs from prompt to picture, beside what it gains where that was measured."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.caption import describe, inputs_of
from softdecode.evaluation.report.entries import BASELINE, Entry
from softdecode.evaluation.report.inputs import Source
from softdecode.evaluation.report.metrics import Metric, metric_of
from softdecode.evaluation.report.pool import Pool
from softdecode.evaluation.report.table import ReportTable

_PREFIX = "soft@"  # and the denoising steps
_SOFT = re.compile(rf"{_PREFIX}\d+")


def seconds(source: Source) -> tuple[float, dict[int, float]]:
    """Median seconds from prompt to picture: of the VQ decoder, and of soft decoding by denoising steps.

    Raises:
        SoftDecodeError: the file does not hold them.
    """
    ways = source.content.get("pipeline_seconds")
    ways = ways if isinstance(ways, Mapping) else {}
    for name, value in ways.items():
        Metric.check(value, f"{source.path}: seconds of {name}")
    usual = ways.get(BASELINE)
    soft = {int(name[len(_PREFIX) :]): value for name, value in ways.items() if _SOFT.fullmatch(name)}
    if not usual or not soft or None in soft.values():
        raise SoftDecodeError(
            f"{source.path} lacks `pipeline_seconds` of the VQ decoder and of soft decoding; measure it again"
        )
    return usual, dict(sorted(soft.items()))


def latency_table(source: Source, pools: Sequence[Pool]) -> tuple[ReportTable, list[str]]:
    """Table 5 of one latency result, and warnings.

    Args:
        source: of the kind "latency".
        pools: results; the Frechet distances come from the one of generation that has this very decoder.

    Raises:
        SoftDecodeError: the file does not hold what it must.
    """
    usual, soft = seconds(source)
    name = f"VLM + {decoder_name(source)}"
    rows = [_row("VLM + VQ decoder", None, usual, usual), *(_row(name, *item, usual) for item in soft.items())]
    columns = {
        "name": "name",
        "steps": "steps",
        "latency_ratio": "latency over VQ",
        "latency_change": "latency change",
        "seconds": "seconds",
    }
    caption = _caption(source)
    fitting = [(pool, entries) for pool in pools if (entries := _entries(source, pool))]
    warnings = []
    if len(fitting) == 1:
        pool, entries = fitting[0]
        _add_quality(rows, entries)
        heading = metric_of("frechet", pool.protocol).heading
        columns |= {"frechet": heading, "frechet_change": f"{heading.split()[0]} change"}
        caption += f"; quality: {describe(pool, entries.values())}"
    else:
        why = "several generation results fit" if fitting else "no generation result is of this decoder"
        warnings.append(f"Table 5 of {source.path} shows no quality: {why}")
    return ReportTable(
        number=5, title="latency", caption=caption, columns=columns, rows=rows, protocol=_settings(source)
    ), warnings


def decoder_name(source: Source) -> str:
    """The timed decoder's."""
    return str(_decoder(source).get("name", "soft"))


def _row(name: str, steps: int | None, value: float, usual: float) -> dict[str, Any]:
    return {
        "name": name,
        "steps": steps,
        "latency_ratio": value / usual,
        "latency_change": None if steps is None else _change(value / usual),
        "seconds": value,
    }


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.2f}%"


def _decoder(source: Source) -> Mapping[str, Any]:
    decoder = source.content.get("decoder")
    return decoder if isinstance(decoder, Mapping) else {}


def _entries(source: Source, pool: Pool) -> dict[int | None, Entry]:
    """Rows of the timed decoder and of the VQ decoder beside it, by steps; empty where the pool has another decoder."""
    if pool.task != "generation" or pool.protocol.get("codebook_sha256") != source.content.get("codebook_sha256"):
        return {}
    timed = _decoder(source)
    entries: dict[int | None, Entry] = {
        entry.steps: entry
        for entry in pool.overall
        if entry.name == decoder_name(source) and entry.settings and _agree(timed, entry.settings)
    }
    usual = [entry for entry in pool.overall if entry.name == BASELINE]
    if not entries or len(usual) != 1:
        return {}
    return entries | {None: usual[0]}


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions of a decoder say the same of everything that both speak of."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _add_quality(rows: Sequence[dict[str, Any]], entries: Mapping[int | None, Entry]) -> None:
    for row in rows:
        entry = entries.get(row["steps"])
        row["frechet"] = None if entry is None else entry.row.get("frechet")
        ratio = None if entry is None or row["steps"] is None else entry.row.get("frechet_over_vq")
        row["frechet_change"] = None if ratio is None else _change(ratio)


def _settings(source: Source) -> dict[str, object]:
    return {name: source.content.get(name) for name in ("batch_size", "rounds", "device", "decoder", "codebook_sha256")}


def _caption(source: Source) -> str:
    content = source.content
    parts = [
        "medians of runs in turn in one process",
        f"{content['rounds']} rounds" if "rounds" in content else "",
        f"batch of {content['batch_size']}" if "batch_size" in content else "",
        f"device {content['device']}" if "device" in content else "",
        inputs_of([source]),
    ]
    return "; ".join(part for part in parts if part)
