"""One table of a report: its rows, what is said of them, and its forms as Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softdecode.evaluation.tables import cell, table
from softdecode.files import write_json, write_text

FORMAT = "softdecode-report-table-1"


@dataclass(kw_only=True)
class ReportTable:
    """A table.

    Attributes:
        number: of the paper's table that it answers.
        title: what it holds.
        caption: its protocol in one line.
        columns: name in the rows to heading.
        rows: values by name; a row may hold more than is shown.
        judged: columns to set the best value in bold in: "lower" or "higher" is better.
        by_row: compare the judged values of each row with one another, rather than those of each column.
        unjudged: rows that are no competitors, by place.
        name: of its files, without suffix; set when all tables are known.
        plots: files of its plots, by what they show.
        protocol: what all its rows agree in.
    """

    number: int
    title: str
    caption: str
    columns: dict[str, str]
    rows: list[dict[str, Any]]
    judged: dict[str, str] = field(default_factory=dict)
    by_row: bool = False
    unjudged: frozenset[int] = frozenset()
    name: str = ""
    plots: dict[str, str] = field(default_factory=dict)
    protocol: Mapping[str, object] = field(default_factory=dict)

    def markdown(self) -> str:
        """The table as Markdown, four significant digits, best values in bold."""
        bold = self._best()
        shown = [
            {
                heading: f"**{cell(row.get(name))}**" if (place, name) in bold else row.get(name)
                for name, heading in self.columns.items()
            }
            for place, row in enumerate(self.rows)
        ]
        return table(shown, list(self.columns.values()))

    def csv(self) -> str:
        """The shown columns with all their digits; what is absent is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.columns), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def write(self, folder: Path) -> list[str]:
        """Write NAME.csv and NAME.json, and return their names."""
        write_text(folder / f"{self.name}.csv", self.csv())
        write_json(folder / f"{self.name}.json", self.content())
        return [f"{self.name}.csv", f"{self.name}.json"]

    def content(self) -> dict[str, object]:
        """What the JSON file holds."""
        return {
            "format": FORMAT,
            "table": self.number,
            "title": self.title,
            "caption": self.caption,
            "protocol": dict(self.protocol),
            "columns": self.columns,
            "rows": self.rows,
        }

    def _best(self) -> set[tuple[int, str]]:
        """Places (row, column) of the best values; ties at the digits shown are all best."""
        places = [place for place in range(len(self.rows)) if place not in self.unjudged]
        if self.by_row:
            better = next(iter(self.judged.values()), "lower")
            return {best for place in places for best in self._best_of([(place, name) for name in self.judged], better)}
        return {
            best
            for name, better in self.judged.items()
            for best in self._best_of([(place, name) for place in places], better)
        }

    def _best_of(self, line: Sequence[tuple[int, str]], better: str) -> list[tuple[int, str]]:
        values = {(place, name): self.rows[place].get(name) for place, name in line}
        values = {where: value for where, value in values.items() if value is not None}
        if len(values) < 2:  # nothing to be better than
            return []
        best = (min if better == "lower" else max)(values.values())
        return [where for where, value in values.items() if cell(float(value)) == cell(float(best))]
