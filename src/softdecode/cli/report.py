"""`softdecode report`: the paper's tables and plots from result files."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from softdecode.cli.options import check_positive, parse
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.build import build_report
from softdecode.evaluation.report.inputs import find_sources
from softdecode.evaluation.report.write import write_report


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Make the paper's tables and plots in our protocol from result files: no model and no pictures are needed.

    Results of different protocols (reference, count, resolution, extractor and the like) get tables of their own.
    Writes report.md, a CSV and a JSON file of each table, and plots.
    """

    results: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RESULT...")]
    """Result files, or folders to search for them: of evaluate, calibrate and benchmarks/latency.py."""
    output: Path = Path("outputs/report")
    """Folder for the report."""
    steps: int | None = None
    """Denoising steps that Tables 2 to 4 show, >= 1; the most of each decoder where absent. Table 6 shows all."""
    one_table: bool = False
    """Refuse results of one command that differ in protocol, and say in what, rather than to make two tables."""
    with_paper: bool = False
    """Add the paper's own numbers, in tables apart: other models, other protocol."""
    plots: bool = True
    """Draw plots, which needs matplotlib."""
    json: bool = False
    """Print the tables as JSON rather than the list of files."""

    def run(self) -> None:
        check_positive(steps=self.steps)
        if not self.results:
            raise SoftDecodeError("name at least one result file, or a folder to search for them")
        report = build_report(
            find_sources(self.results), steps=self.steps, one_table=self.one_table, with_paper=self.with_paper
        )
        files = write_report(report, self.output, plots=self.plots)
        for warning in report.warnings:
            print(f"softdecode: warning: {warning}", file=sys.stderr)
        if self.json:
            tables = [made.content() for made, _ in report.tables]
            published = [made.content() for made in report.published]
            print(json.dumps({"tables": tables, "published": published, "warnings": report.warnings, "files": files}))
            return
        print(f"wrote {self.output / 'report.md'}, tables: {len(report.tables) + len(report.published)}")


def main(arguments: list[str]) -> None:
    parse(ReportCommand, "report", arguments).run()
