"""A report: every table that the inputs allow, what each needs and lacks, and the plots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.calibration_report import profile_plot
from softdecode.evaluation.report.calibrations import calibration_table, read_fits
from softdecode.evaluation.report.inputs import Source
from softdecode.evaluation.report.latency import decoder_name, latency_table, seconds
from softdecode.evaluation.report.plots import has_bits, plot_bits, plot_latency, plot_steps
from softdecode.evaluation.report.pool import Pool, differences, make_pools
from softdecode.evaluation.report.published import published_tables
from softdecode.evaluation.report.quality import ablation_table, category_table, main_table, stepped, steps_table
from softdecode.evaluation.report.table import ReportTable

# How to get the tables that a report lacks.
SOURCES = {
    1: "`softdecode calibrate`",
    2: "`softdecode evaluate reconstruction`",
    3: "`softdecode evaluate generation`",
    4: "an evaluation of several decoders",
    5: "`python benchmarks/latency.py --json FILE`",
    6: "an evaluation with several numbers after `--steps`",
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot to draw beside a table.

    Attributes:
        name: its file's name behind the table's.
        shows: what it shows, in a few words.
        draw: draws it into a file.
    """

    name: str
    shows: str
    draw: Callable[[Path], None]


@dataclass(kw_only=True)
class Report:
    """What a report holds.

    Attributes:
        sources: the inputs.
        tables: with their plots, in the paper's order.
        published: the paper's tables, where asked for.
        warnings: what a reader must know.
    """

    sources: Sequence[Source]
    tables: list[tuple[ReportTable, list[Plot]]] = field(default_factory=list)
    published: list[ReportTable] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def build_report(
    sources: Sequence[Source], *, steps: int | None = None, one_table: bool = False, with_paper: bool = False
) -> Report:
    """Make the tables; nothing is written or drawn yet.

    Args:
        sources: see `find_sources`.
        steps: denoising steps that Tables 2 to 4 show; each decoder's most where None.
        one_table: refuse results of one command but different protocols.
        with_paper: add the paper's numbers, apart.

    Raises:
        SoftDecodeError: a result cannot be used, or `one_table` and there are several protocols.
    """
    report = Report(sources=sources, published=published_tables() if with_paper else [])
    pools = make_pools([source for source in sources if source.kind == "pictures"], one_table=one_table)
    if steps is not None and not any(entry.steps == steps for pool in pools for entry in pool.entries):
        raise SoftDecodeError(f"no decoder was measured with {steps} steps; choose another number for --steps")
    _add_calibrations(report)
    for pool in pools:
        _add_pool(report, pool, steps)
    for pool in make_pools([source for source in sources if source.kind == "geneval"], one_table=one_table):
        _add_geneval(report, pool)
    _add_latencies(report, pools)
    report.tables.sort(key=lambda item: item[0].number)
    tables = [table for table, _ in report.tables]
    _name(tables, "table")
    _tell_apart(tables)
    _name(report.published, "published")
    return report


def _add_calibrations(report: Report) -> None:
    fits, warnings = read_fits(source for source in report.sources if source.kind == "calibration")
    report.warnings += warnings
    for fit in fits:
        plots = []
        if (calibration := fit.calibration) is not None:
            plots.append(
                Plot(
                    name="profile",
                    shows="mean sorted token probabilities, the first 30 (Figure 6)",
                    draw=lambda path, calibration=calibration: profile_plot(calibration, path),
                )
            )
        report.tables.append((calibration_table(fit), plots))


def _add_pool(report: Report, pool: Pool, steps: int | None) -> None:
    bits = Plot(
        name="bits",
        shows="PSNR and SSIM over the bits of what is decoded",
        draw=lambda path: plot_bits(pool, steps, path),
    )
    curves = Plot(name="steps", shows="quality over denoising steps", draw=lambda path: plot_steps(pool, path))
    report.tables.append((main_table(pool, steps), [bits] if has_bits(pool) else []))
    for table, plots in (
        (category_table(pool), []),
        (ablation_table(pool, steps), []),
        (steps_table(pool), [curves] if stepped(pool) else []),
    ):
        if table is not None:
            report.tables.append((table, plots))
    _warn(report, pool, *(f"{label} was not measured with {steps} steps" for label in pool.left_out(steps)))


def _add_geneval(report: Report, pool: Pool) -> None:
    table = category_table(pool, "accuracy")
    if table is None:
        raise SoftDecodeError(f"{pool.sources[0].path} has no tags beside the overall accuracy; make the summary again")
    report.tables.append((table, []))
    _warn(report, pool, *(() if pool.protocol.get("complete", True) else ("this is not the whole of GenEval",)))


def _warn(report: Report, pool: Pool, *more: str) -> None:
    origin = f"{pool.sources[0].command} {''.join(f'[{source.number}]' for source in pool.sources)}"
    report.warnings += [f"{origin}: {warning}" for warning in [*pool.warnings, *more]]


def _add_latencies(report: Report, pools: Sequence[Pool]) -> None:
    for source in report.sources:
        if source.kind != "latency":
            continue
        table, warnings = latency_table(source, pools)
        usual, soft = seconds(source)
        label = decoder_name(source)
        points = [(count, value / usual) for count, value in soft.items()]
        plot = Plot(
            name="latency",
            shows="latency over denoising steps",
            draw=lambda path, label=label, points=points: plot_latency(label, points, path),
        )
        report.tables.append((table, [plot]))
        report.warnings += warnings


def _name(tables: Sequence[ReportTable], prefix: str) -> None:
    """Name each table's files: table2, or table2a, table2b where there are several of a number."""
    numbers = [table.number for table in tables]
    seen: dict[int, int] = {}
    for table in tables:
        place = seen[table.number] = seen.get(table.number, 0) + 1
        table.name = f"{prefix}{table.number}" + (_letters(place) if numbers.count(table.number) > 1 else "")


def _tell_apart(tables: Sequence[ReportTable]) -> None:
    """Say of tables of one title in what their protocols differ."""
    first: dict[tuple[int, str], ReportTable] = {}
    for table in tables:
        other = first.setdefault((table.number, table.title), table)
        if other is not table and (apart := differences(other.protocol, table.protocol)):
            table.caption += f"; apart from {other.name} for {', '.join(apart)}"


def _letters(place: int) -> str:
    """1 → a, 26 → z, 27 → aa."""
    letters = ""
    while place:
        place, digit = divmod(place - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters
