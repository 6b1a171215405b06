"""A report's files: report.md, a CSV and a JSON file of each table, and the plots."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.build import SOURCES, Report
from softdecode.evaluation.report.inputs import Source
from softdecode.evaluation.report.published import TITLE
from softdecode.evaluation.report.table import ReportTable
from softdecode.evaluation.tables import table
from softdecode.files import atomic_folder, write_text

_OWN = re.compile(r"report\.md|(table|published)\d+[a-z]*(-[a-z]+)?\.(csv|json|png)")


def write_report(report: Report, folder: str | os.PathLike[str], *, plots: bool = True) -> list[str]:
    """Write everything, or nothing where something fails, and return the files' names in order.

    The same inputs give the same files: no date is written but those of the inputs. An older report in the folder is
    replaced as a whole, so that none of its tables stays behind.

    Raises:
        SoftDecodeError: the folder holds other things or cannot be written to; or plots are wanted without matplotlib.
    """
    folder = Path(folder)
    foreign = sorted(path.name for path in folder.iterdir() if not _OWN.fullmatch(path.name)) if folder.is_dir() else []
    if foreign:
        raise SoftDecodeError(f"{folder} holds {foreign[0]}, which is no report's; choose another folder with --output")
    files = ["report.md"]
    parts = []
    with atomic_folder(folder) as staged:
        for made, wanted in report.tables:
            files += made.write(staged)
            pictures = {}
            for plot in wanted if plots else []:
                name = f"{made.name}-{plot.name}.png"
                plot.draw(staged / name)
                pictures[name] = plot.shows
            files += pictures
            parts.append(section(made, pictures))
        for made in report.published:
            files += made.write(staged)
        write_text(staged / "report.md", _text(report, parts))
    return files


def section(made: ReportTable, pictures: Mapping[str, str]) -> str:
    """A table with its heading, caption and plots, as Markdown."""
    return "\n\n".join([*_body(made, "##"), *(f"![{shows}]({name})" for name, shows in pictures.items())])


def _body(made: ReportTable, level: str) -> list[str]:
    name = made.name.removeprefix("table").removeprefix("published")
    return [f"{level} Table {name}: {made.title}", made.caption, made.markdown(), f"Files: {made.name}.csv, .json"]


def _text(report: Report, parts: Iterable[str]) -> str:
    present = {made.number for made, _ in report.tables}
    missing = [f"- Table {number} needs {needs}." for number, needs in SOURCES.items() if number not in present]
    blocks = [
        "# Report",
        "Tables are numbered as the paper's that they answer. Results of different protocols never share a table; "
        "ratios are within a table. A [number] is that of an input, listed at the end.",
        *parts,
    ]
    if report.published:
        blocks += [f"## {TITLE}", *(block for made in report.published for block in _body(made, "###"))]
    if report.warnings or missing:
        blocks += ["## What is missing", "\n".join([*(f"- {warning}" for warning in report.warnings), *missing])]
    rows = [_input(source) for source in report.sources]
    blocks += ["## Inputs", table(rows, list(rows[0]))]
    return "\n\n".join(blocks) + "\n"


def _input(source: Source) -> dict[str, Any]:
    origin = source.content.get("provenance")
    origin = origin if isinstance(origin, Mapping) else {}
    return {
        "number": source.number,
        "file": source.path,
        "SHA-256": source.sha256,
        "command": source.command,
        "made": origin.get("time"),
        "revision": origin.get("git"),
    }
