"""The account of unusable pictures."""

import json

import pytest

from softdecode.data.sources import CorruptPictures
from softdecode.errors import SoftDecodeError


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_is_listed_at_once_with_its_reason(tmp_path):
    corrupt = CorruptPictures(tmp_path / "new" / "list.jsonl")
    corrupt.skip("a.jpg", "half of it is missing")
    assert lines(corrupt.path) == [{"key": "a.jpg", "reason": "half of it is missing"}]
    corrupt.accept()
    corrupt.skip("b ü\n.jpg", "too small")
    assert lines(corrupt.path)[1] == {"key": "b ü\n.jpg", "reason": "too small"}
    assert (corrupt.seen, corrupt.skipped) == (3, 2)


def test_one_that_comes_again_counts_but_is_listed_once(tmp_path):
    corrupt = CorruptPictures(tmp_path / "list.jsonl")
    for _ in range(3):
        corrupt.skip("a", "damaged")
    assert corrupt.skipped == 3
    assert len(lines(corrupt.path)) == 1


def test_a_list_that_is_there_is_kept(tmp_path):
    for key in ("a", "b"):
        CorruptPictures(tmp_path / "list.jsonl").skip(key, "damaged")
    assert [line["key"] for line in lines(tmp_path / "list.jsonl")] == ["a", "b"]


def test_a_share_above_the_limit_stops_the_run(tmp_path):
    """With a limit of a tenth and none free: 10 of 100 may be unusable, 11 of 101 may not."""
    corrupt = CorruptPictures(tmp_path / "list.jsonl", limit=0.1, minimum=0)
    for _ in range(90):
        corrupt.accept()
    for number in range(10):
        corrupt.skip(str(number), "damaged")
    with pytest.raises(SoftDecodeError, match=r"11 of 101 pictures could not be used, more than 10.00%; .*list.jsonl"):
        corrupt.skip("10", "damaged")
    assert lines(corrupt.path)[-1]["key"] == "10"


def test_the_first_few_say_nothing_about_the_whole(tmp_path):
    corrupt = CorruptPictures(tmp_path / "list.jsonl", limit=0, minimum=3)
    for number in range(3):
        corrupt.skip(str(number), "damaged")
    with pytest.raises(SoftDecodeError, match="4 of 4 pictures"):
        corrupt.skip("3", "damaged")


def test_a_limit_of_one_never_stops(tmp_path):
    corrupt = CorruptPictures(tmp_path / "list.jsonl", limit=1, minimum=0)
    for number in range(20):
        corrupt.skip(str(number), "damaged")
    assert corrupt.skipped == 20


@pytest.mark.parametrize("wrong", [{"limit": -0.1}, {"limit": 1.1}, {"limit": float("nan")}, {"minimum": -1}])
def test_limits_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(SoftDecodeError, match="expected"):
        CorruptPictures(tmp_path / "list.jsonl", **wrong)


def test_a_list_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(SoftDecodeError, match="cannot write"):
        CorruptPictures(tmp_path).skip("a", "damaged")
