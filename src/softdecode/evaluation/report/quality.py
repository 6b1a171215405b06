"""Tables 2, 3, 4 and 6: what pictures are worth, by decoder, category, ingredient and number of steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from softdecode.evaluation.report.caption import describe
from softdecode.evaluation.report.entries import BASELINE, CEILING, OVERALL, Entry
from softdecode.evaluation.report.metrics import JUDGED, metric_of
from softdecode.evaluation.report.pool import Pool
from softdecode.evaluation.report.table import ReportTable

_BOLD = "bold: best but for the ceiling, whatever the bits"
_MEASURED = ("steps", "bits_per_pixel", *JUDGED)


def main_table(pool: Pool, steps: int | None = None) -> ReportTable:
    """Table 2 (compared with the originals) or 3: each decoder once, with its most steps or with `steps`."""
    paired = pool.task == "reconstruction" or bool(pool.protocol.get("paired"))
    title = {"generation": "text-to-image generation"}.get(pool.task, pool.task)
    return _table(pool, pool.at_steps(steps), number=2 if paired else 3, title=title)


def category_table(pool: Pool, measure: str = "frechet") -> ReportTable | None:
    """Table 3 by category, or GenEval's tag; None where the results have no categories.

    Categories are rows and decoders columns, unlike in the paper: they have other counts than the whole, and distances
    of different counts share no row.

    Args:
        pool: the results.
        measure: "frechet", or "accuracy" (a share, shown in percent).
    """
    entries = [entry for entry in pool.entries if entry.row.get("category")]
    if len({entry.category for entry in entries}) < 2:
        return None
    rows: dict[tuple[str, object], dict[str, Any]] = {}
    for entry in entries:
        count, value = entry.row.get("count"), entry.row.get(measure)
        row = rows.setdefault((entry.category, count), {"category": entry.category, "count": count})
        row[_column(entry)] = 100 * value if measure == "accuracy" and value is not None else value
    decoders = list(dict.fromkeys(_column(entry) for entry in entries))
    counts = ["count"] if any(row["count"] is not None for row in rows.values()) else []
    metric = metric_of(measure, pool.protocol)
    title = "GenEval, accuracy in percent ↑" if measure == "accuracy" else f"{metric.heading} by category"
    return ReportTable(
        number=3,
        title=title,
        caption=f"{describe(pool, entries)}; bold: best of a row",
        columns={name: name for name in ("category", *counts, *decoders)},
        rows=sorted(rows.values(), key=lambda row: row["category"] != OVERALL),
        judged=dict.fromkeys(decoders, metric.better or "lower"),
        by_row=True,
        protocol=pool.key,
    )


def ablation_table(pool: Pool, steps: int | None = None) -> ReportTable | None:
    """Table 4: what each ingredient of the condition adds; None where fewer than two decoders were measured."""
    shown = pool.at_steps(steps)
    entries = [entry for entry in shown if entry.settings]
    if len(entries) < 2:
        return None
    entries.sort(key=lambda entry: _order(entry.settings or {}))
    variants = {ingredients(entry.settings or {}) for entry in entries}
    for variant in ("hard codes", "LCDM", "LCDM + LC"):
        if variant not in variants:
            pool.warnings.append(f"the ablation has no decoder of {variant}")
    baselines = [entry for entry in shown if entry.name in (CEILING, BASELINE)]
    table = _table(pool, [*baselines, *entries], number=4, title=f"ablation ({pool.task})", with_ingredients=True)
    # An ablation changes one thing: say where it changed more.
    differing = [
        name
        for name in sorted({name for entry in entries for name in entry.settings or {}} & {"draft", "noise_scale"})
        if len({str((entry.settings or {}).get(name)) for entry in entries}) > 1
    ]
    if differing:
        pool.warnings.append(f"the ablation's decoders also differ in {' and '.join(differing)}")
    return table


def steps_table(pool: Pool) -> ReportTable | None:
    """Table 6: all numbers of steps; None where no decoder was measured with several."""
    if not stepped(pool):
        return None
    always = (CEILING, BASELINE, "hard")
    entries = [entry for entry in pool.overall if entry.label in stepped(pool) or entry.name in always]
    return _table(pool, entries, number=6, title=f"denoising steps ({pool.task})")


def stepped(pool: Pool) -> list[str]:
    """Labels of the decoders that were measured with several numbers of steps."""
    steps: dict[str, set[int]] = {}
    for entry in pool.overall:
        if entry.steps is not None:
            steps.setdefault(entry.label, set()).add(entry.steps)
    return [label for label, found in steps.items() if len(found) > 1]


def ingredients(settings: Mapping[str, Any]) -> str:
    """A decoder's condition in the paper's words, from its settings in a result."""
    mode = settings.get("mode")
    if mode == "hard":
        return "hard codes"
    calibrated = settings.get("kappa", 1) != 1 or settings.get("epsilon", 0) != 0
    said = "LCDM"
    if settings.get("source") == "teacher-forced":
        said += ", trained on the VLM's own logits"
    elif calibrated:
        said += " + LC"
    return said + (" + hard codes" if mode == "joint" else "")


def _order(settings: Mapping[str, Any]) -> tuple[int, int, int]:
    modes = {"hard": 0, "soft": 1, "joint": 2}
    sources = {None: 0, "proxy": 0, "teacher-forced": 1}
    calibrated = int(" + LC" in ingredients(settings))
    return modes.get(str(settings.get("mode")), 3), sources.get(settings.get("source"), 2), calibrated


def _column(entry: Entry) -> str:
    return entry.label if entry.steps is None else f"{entry.label}@{entry.steps}"


def _table(
    pool: Pool, entries: Sequence[Entry], *, number: int, title: str, with_ingredients: bool = False
) -> ReportTable:
    """Rows of a pool with every metric that was measured."""
    measured = [name for name in _MEASURED if any(entry.row.get(name) is not None for entry in entries)]
    rows: list[dict[str, Any]] = []
    for entry in entries:
        said = {"ingredients": ingredients(entry.settings) if entry.settings else None} if with_ingredients else {}
        values = {name: entry.row.get(name) for name in (*measured, "kernel_std", "seconds") if name in entry.row}
        condition = entry.row.get("condition")
        rows.append({"name": entry.label, **said, "condition": condition, **values, "input": entry.source.number})
    conditions = ["condition"] if any(row["condition"] for row in rows) else []
    metrics = {name: metric_of(name, pool.protocol) for name in measured}
    return ReportTable(
        number=number,
        title=title,
        caption=f"{describe(pool, entries)}; {_BOLD}",
        columns={name: name for name in ("name", *(["ingredients"] if with_ingredients else []), *conditions)}
        | {name: metric.heading for name, metric in metrics.items()},
        rows=rows,
        judged={name: metric.better for name, metric in metrics.items() if metric.better is not None},
        unjudged=frozenset(place for place, entry in enumerate(entries) if entry.name == CEILING),
        protocol=pool.key,
    )
