"""The paper's numbers, against what the method's notes say of them."""

import pytest

from softdecode.evaluation.report.published import published_tables


def rows(number, *words):
    (table,) = (
        table
        for table in published_tables()
        if table.number == number and all(word in table.title for word in words)
    )  # fmt: skip
    return {next(iter(row.values())): list(row.values())[1:] for row in table.rows}


def test_all_eight_tables_are_there_and_every_row_is_whole():
    tables = published_tables()
    assert sorted({table.number for table in tables}) == list(range(1, 9))
    for table in tables:
        assert len({table.title for table in tables}) == len(tables)
        assert all(list(row) == list(table.columns) for row in table.rows)
        assert "2603.13389" in table.caption
        assert table.judged == {}, "nothing of theirs is ranked by us"


def test_changes_that_the_paper_states_follow_from_the_numbers():
    usual, ours = rows(5).values()
    assert 100 * (ours[0] / usual[0] - 1) == pytest.approx(-34.12, abs=0.03)
    assert 100 * (ours[1] / usual[1] - 1) == pytest.approx(31.19, abs=0.01)
    assert [round(value[0], 2) for value in rows(3, "gFID").values()] == pytest.approx([14.29, 9.42])


@pytest.mark.parametrize("number", [3, 8])
def test_genevals_overall_is_the_mean_over_tags(number):
    for overall, *tags in rows(number, "GenEval").values():
        assert sum(tags) / len(tags) == pytest.approx(overall, abs=0.01)


def test_what_the_text_says_of_the_steps_holds():
    steps = rows(6)
    usual = steps.pop("VQ decoder")
    assert min(steps, key=lambda name: steps[name][0]) == "25 steps"
    assert max(steps, key=lambda name: steps[name][1]) == "15 steps"
    assert min(steps, key=lambda name: steps[name][2]) == "25 steps"
    better = [name for name, row in steps.items() if row[0] < usual[0] and row[1] > usual[1] and row[2] < usual[2]]
    assert better[0] == "10 steps", "from ten steps on it is better in everything"
