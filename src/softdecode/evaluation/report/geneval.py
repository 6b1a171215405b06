"""Table 3 by GenEval: share of prompts whose picture shows what was asked for, by tag."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.caption import inputs_of
from softdecode.evaluation.report.inputs import Source
from softdecode.evaluation.report.metrics import Metric
from softdecode.evaluation.report.pool import Pool
from softdecode.evaluation.report.table import ReportTable


def geneval_table(pool: Pool) -> ReportTable:
    """Tags as rows, decoders as columns, accuracies in percent.

    Raises:
        SoftDecodeError: a row has no tag or no accuracy in [0, 1].
    """
    names = _names(pool.sources)
    rows: dict[str, dict[str, Any]] = {}
    for source in pool.sources:
        for row in source.content["rows"]:
            decoder, tag, accuracy, count = _parse(row, source.path, names[source.number])
            line = rows.setdefault(tag, {"tag": tag, "count": count})
            if decoder in line:
                decoder = f"{decoder} [{source.number}]"
            line[decoder] = 100 * accuracy
    decoders = list(dict.fromkeys(name for row in rows.values() for name in row if name not in ("tag", "count")))
    counts = ["count"] if any(row["count"] is not None for row in rows.values()) else []
    return ReportTable(
        number=3,
        title="GenEval",
        caption=f"accuracy in percent, higher is better; {inputs_of(pool.sources)}; bold: best of a row",
        columns={name: name for name in ("tag", *counts, *decoders)},
        rows=list(rows.values()),
        judged=dict.fromkeys(decoders, "higher"),
        by_row=True,
        protocol=pool.key,
    )


def _names(sources: Sequence[Source]) -> dict[int, str]:
    """A decoder's name for rows that have none: that of the folder its result lies in."""
    return {source.number: source.path.absolute().parent.name for source in sources}


def _parse(row: dict[str, Any], path: Path, name: str) -> tuple[str, str, float, object]:
    """Decoder, tag, accuracy and count of a row."""
    tag, accuracy = row.get("tag"), row.get("accuracy")
    Metric.check(accuracy, f"{path}: accuracy of {tag}")
    if not isinstance(tag, str) or accuracy is None or not 0 <= accuracy <= 1:
        raise SoftDecodeError(f"{path}: a row lacks a `tag` or an `accuracy` in [0, 1]; make the summary again")
    return str(row.get("name") or name), tag, float(accuracy), row.get("count")
