"""Inputs are recognised by content, named ones must be usable, and nothing damaged passes."""

import hashlib
import json

import pytest

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.inputs import find_sources


def test_files_are_recognised_by_their_content_and_numbered(write, results):
    first = write("any.json", results.generation())
    second = write("b/other.json", results.reconstruction())
    third = write("c/latency.json", {"command": "latency"})
    fourth = write("d/calibration.json", {"format": "softdecode-calibration-1"})
    fifth = write("e/geneval.json", {"command": "evaluate geneval", "rows": [{"name": "vq"}]})
    sources = find_sources([first, second, third, fourth, fifth])
    assert [source.kind for source in sources] == ["pictures", "pictures", "latency", "calibration", "geneval"]
    assert [source.number for source in sources] == [1, 2, 3, 4, 5]
    assert sources[0].sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
    assert sources[0].content == results.generation()
    assert [source.command for source in sources[:2]] == ["evaluate generation", "evaluate reconstruction"]


def test_folders_are_searched_in_a_fixed_order_and_other_files_in_them_passed_over(write, results, tmp_path):
    write("b/result.json", results.generation())
    write("a/deep/result.json", results.reconstruction())
    write("a/config.json", {"command": "generate"})
    write("a/list.json", [1, 2])
    write(".hidden/result.json", results.generation(count=7))
    (tmp_path / "a" / "broken.json").write_text("{")
    (tmp_path / "a" / "notes.txt").write_text("{}")
    paths = [source.path.relative_to(tmp_path).as_posix() for source in find_sources([tmp_path])]
    assert paths == ["a/deep/result.json", "b/result.json"]


def test_files_of_the_same_bytes_count_once(write, results, tmp_path):
    write("a/result.json", results.generation())
    copy = write("b/result.json", results.generation())
    assert [source.path.parent.name for source in find_sources([tmp_path, copy])] == ["a"]


@pytest.mark.parametrize("content", [{"command": "generate"}, {"format": "softdecode-report-table-1"}, [], {}])
def test_a_named_file_of_something_else_is_refused(write, content):
    path = write("x.json", content)
    with pytest.raises(SoftDecodeError, match=r"x\.json is nothing that a report can use; expected result\.json"):
        find_sources([path])


def test_a_damaged_result_in_a_folder_is_no_other_file(tmp_path):
    (tmp_path / "result.json").write_text('{"command": ')
    with pytest.raises(SoftDecodeError, match=r"result\.json is not valid JSON"):
        find_sources([tmp_path])


def test_no_results_at_all_is_an_error(tmp_path):
    with pytest.raises(SoftDecodeError, match="no results in"):
        find_sources([tmp_path])
    with pytest.raises(SoftDecodeError, match="cannot read"):
        find_sources([tmp_path / "absent.json"])


@pytest.mark.parametrize("rows", [None, [], {}, [1]])
def test_results_without_rows_are_refused(write, results, rows):
    path = write("r.json", results.generation() | {"rows": rows})
    with pytest.raises(SoftDecodeError, match="`rows` must be a list"):
        find_sources([path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "a row has no name"),
        ({"frechet": float("nan")}, "frechet of vq is nan"),
        ({"ssim": "0.8"}, "ssim of vq is '0.8'"),
        ({"psnr": True}, "psnr of vq is True"),
        ({"steps": [4]}, "steps of vq"),
    ],
)
def test_rows_that_cannot_be_shown_are_refused(tmp_path, results, change, message):
    content = results.result([results.row("vq", 3) | change])
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SoftDecodeError, match=message):
        find_sources([path])


def test_a_protocol_must_be_an_object(write, results):
    for protocol in ([], {"metrics": "psnr"}, {"decoders": []}, {"decoders": {"soft": 3}}):
        path = write("r.json", results.generation() | {"protocol": protocol})
        with pytest.raises(SoftDecodeError, match="must be objects"):
            find_sources([path])


def test_rows_of_one_name_in_one_result_are_refused_rather_than_dropped(write, results):
    path = write("r.json", results.result([results.row("soft", 3, 4), results.row("soft", 5, 4)]))
    with pytest.raises(SoftDecodeError, match="several rows are called soft"):
        find_sources([path])


@pytest.mark.parametrize(
    ("images", "name"),
    [("out/cfg7.5", "cfg7.5"), ("out/cfg7.5.npz", "cfg7.5"), ("out/soft", "soft"), ("out/v1.0/results.jsonl", "v1.0")],
)
def test_pictures_go_by_their_folders_whole_name(write, images, name):
    content = {"command": "evaluate folders", "protocol": {"images": images}, "rows": [{"name": "overall"}]}
    (source,) = find_sources([write("result.json", content)])
    assert [row["name"] for row in source.rows] == [name]
