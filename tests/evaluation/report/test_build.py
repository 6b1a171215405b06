"""Whole reports: which tables there are, how their files are called, and what is said to be missing."""

import pytest

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.build import build_report
from softdecode.evaluation.report.inputs import find_sources


@pytest.fixture
def build(write):
    def make(*contents, **options):
        paths = [write(f"{place}/result.json", content) for place, content in enumerate(contents)]
        return build_report(find_sources(paths), **options)

    return make


def names(report):
    return [table.name for table, _ in report.tables]


def test_tables_are_in_the_papers_order_and_lettered_where_there_are_several(build, results):
    report = build(results.generation(), results.reconstruction(), results.reconstruction(count=7))
    assert names(report) == ["table2a", "table2b", "table3", "table4a", "table4b", "table4c", "table6a", "table6b"]
    plots = {table.name: [plot.name for plot in plots] for table, plots in report.tables}
    assert plots["table2a"] == ["bits"]
    assert plots["table6b"] == ["steps"]
    assert plots["table3"] == []
    assert report.published == []


def test_tables_of_one_title_say_in_what_they_differ(build, results):
    report = build(results.reconstruction(), results.reconstruction(count=7, crop="centre"))
    captions = {table.name: table.caption for table, _ in report.tables}
    assert captions["table2b"].endswith("; apart from table2a for count: 100 against 7, crop: None against 'centre'")
    assert "apart from" not in captions["table2a"]


def test_one_table_is_refused_across_protocols(build, results):
    with pytest.raises(SoftDecodeError, match="differ in count: 100 against 7"):
        build(results.reconstruction(), results.reconstruction(count=7), one_table=True)
    assert "table2" in names(build(results.reconstruction(), results.reconstruction(seed=7), one_table=True))


def test_the_papers_numbers_come_apart_and_only_when_asked_for(build, results):
    plain, both = build(results.reconstruction()), build(results.reconstruction(), with_paper=True)
    assert names(plain) == names(both)
    assert [table.rows for table, _ in plain.tables] == [table.rows for table, _ in both.tables]
    assert {table.name for table in both.published} >= {"published1", "published2a", "published8b"}


def test_steps_choose_the_rows_of_tables_2_to_4_and_must_have_been_measured(build, results):
    report = build(results.reconstruction(), steps=2)
    shown = {table.name: {row["steps"] for row in table.rows} for table, _ in report.tables}
    assert shown["table2"] == {None, 2}
    assert shown["table6"] == {None, 2, 4}
    assert any("soft-raw was not measured with 2 steps" in warning for warning in report.warnings)
    with pytest.raises(SoftDecodeError, match="no decoder was measured with 3 steps"):
        build(results.reconstruction(), steps=3)


def test_missing_rows_are_warned_of_with_their_input(build, results):
    report = build(results.reconstruction(), results.result([results.row("soft", 5, 4)], task="generation"))
    assert "evaluate generation [2]: there is no row `vq`; measure it with the others" in report.warnings
    assert not any("reconstruction" in warning for warning in report.warnings)


def test_an_incomplete_geneval_is_warned_of(build):
    rows = [{"name": name, "accuracy": 0.5, "count": 2} for name in ("counting", "overall")]
    protocol = {"task": "geneval", "results": "vq/results.jsonl", "complete": False}
    report = build({"command": "evaluate geneval", "protocol": protocol, "rows": rows})
    assert names(report) == ["table3"]
    assert report.warnings == ["evaluate geneval [1]: this is not the whole of GenEval"]
    with pytest.raises(SoftDecodeError, match="no tags"):
        build({"command": "evaluate geneval", "protocol": protocol, "rows": rows[1:]})
