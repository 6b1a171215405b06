"""A table's forms: bold at the best, nothing lost in CSV and JSON."""

import csv
import io
import json

from softdecode.evaluation.report.table import FORMAT, ReportTable


def make(rows, **options):
    columns = {"name": "name", "distance": "distance ↓", "quality": "quality ↑"}
    judged = {"distance": "lower", "quality": "higher"}
    return ReportTable(
        **{"number": 2, "title": "t", "caption": "c", "columns": columns, "judged": judged, "name": "table2"} | options,
        rows=rows,
    )


ROWS = [
    {"name": "ceiling", "distance": 1.0, "quality": 9.0},
    {"name": "a", "distance": 2.0, "quality": 3.0},
    {"name": "b", "distance": 3.0, "quality": 4.0, "input": 7},
    {"name": "c", "distance": None, "quality": 3.99999},
]


def lines(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.markdown().splitlines()[2:]]


def test_the_best_is_bold_and_ties_at_the_digits_shown_are_too():
    assert lines(make(ROWS[1:])) == [["a", "**2**", "3"], ["b", "3", "**4**"], ["c", "–", "**4**"]]


def test_the_ceiling_is_no_competitor():
    table = lines(make(ROWS, unjudged=frozenset({0})))
    assert table[0] == ["ceiling", "1", "9"]
    assert table[1:] == lines(make(ROWS[1:]))


def test_one_row_alone_is_not_best():
    assert lines(make(ROWS[1:2])) == [["a", "2", "3"]]


def test_judged_by_row():
    columns = {"category": "category", "one": "one", "two": "two"}
    rows = [{"category": "x", "one": 1.0, "two": 2.0}, {"category": "y", "one": 3.0, "two": 2.0}]
    table = make(rows, columns=columns, judged={"one": "lower", "two": "lower"}, by_row=True)
    assert lines(table) == [["x", "**1**", "2"], ["y", "3", "**2**"]]


def test_text_cannot_break_out_of_its_cell():
    text = make([{"name": "a|b\nc", "distance": 1.0, "quality": 1.0}]).markdown()
    assert len(text.splitlines()) == 3
    assert r"| a\|b c |" in text


def test_csv_has_the_shown_columns_with_all_their_digits():
    read = list(csv.DictReader(io.StringIO(make([ROWS[2] | {"distance": 1 / 3}, ROWS[3]]).csv())))
    assert float(read[0]["distance"]) == 1 / 3
    assert read[0].keys() == {"name", "distance", "quality"}
    assert read[1]["distance"] == ""


def test_json_has_everything(tmp_path):
    table = make(ROWS, protocol={"count": 3})
    assert table.write(tmp_path) == ["table2.csv", "table2.json"]
    content = json.loads((tmp_path / "table2.json").read_text())
    assert content["rows"] == ROWS
    assert (content["format"], content["table"], content["protocol"]) == (FORMAT, 2, {"count": 3})
