"""The report's files: the same from the same inputs, whole or not at all."""

import csv
import json

import pytest
from PIL import Image

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.report.build import build_report
from softdecode.evaluation.report.inputs import find_sources
from softdecode.evaluation.report.published import TITLE
from softdecode.evaluation.report.write import write_report

LATENCY = {"command": "latency", "pipeline_seconds": {"vq": 1.0, "soft@2": 1.5, "soft@4": 2.0}}


@pytest.fixture(scope="module")
def sources(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    contents = {"1.json": results.reconstruction(), "2.json": results.generation(), "3.json": LATENCY}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    return find_sources([folder])


@pytest.fixture(scope="module")
def written(sources, tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("out") / "new" / "report"
    report = build_report(sources, with_paper=True)
    return report, folder, write_report(report, folder)


def test_every_table_is_in_the_text_and_in_files(written):
    report, folder, files = written
    assert sorted(files) == sorted(path.name for path in folder.iterdir())
    text = (folder / "report.md").read_text()
    for table, plots in report.tables:
        assert table.markdown() in text
        assert table.caption in text
        with open(folder / f"{table.name}.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == len(table.rows)
        assert json.loads((folder / f"{table.name}.json").read_text())["rows"] == table.rows
        assert all(f"({table.name}-{plot.name}.png)" in text for plot in plots)


def test_the_plots_are_pictures_with_something_on_them(written):
    _, folder, files = written
    plots = [name for name in files if name.endswith(".png")]
    assert plots == ["table2-bits.png", "table5-latency.png", "table6-steps.png"]
    for name in plots:
        with Image.open(folder / name) as image:
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(10**6)) > 20


def test_the_papers_numbers_stand_apart_from_ours(written):
    _, folder, _ = written
    before, after = (folder / "report.md").read_text().split(f"## {TITLE}")
    assert "2603.13389" not in before
    assert "0.7535" not in before
    assert "0.7535" in after
    assert after.index("## Inputs") > after.index("### Table 8b")


def test_inputs_and_what_is_missing_are_listed(written, sources):
    _, folder, _ = written
    text = (folder / "report.md").read_text()
    assert all(source.sha256 in text and str(source.path) in text for source in sources)
    assert "2026-01-02T03:04:05+00:00" in text
    assert "- Table 1 needs `softdecode calibrate`." in text
    assert "Table 2 needs" not in text
    assert "no generation result is of this decoder" in text


def test_the_same_inputs_give_the_same_files(written, sources, tmp_path):
    _, folder, files = written
    write_report(build_report(sources, with_paper=True), tmp_path / "again")
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_an_older_report_is_replaced_as_a_whole(sources, tmp_path):
    assert "table2.csv" in write_report(build_report(sources), tmp_path / "report", plots=False)
    files = write_report(build_report(sources[1:2]), tmp_path / "report", plots=False)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(files)
    assert "table2.csv" not in files


def test_a_folder_of_other_things_is_left_alone(sources, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "result.json").write_text("{}")
    with pytest.raises(SoftDecodeError, match=r"mine holds result\.json, which is no report's"):
        write_report(build_report(sources), tmp_path / "mine", plots=False)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["result.json"]


def test_without_matplotlib_there_is_a_report_without_plots_or_none_at_all(sources, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(SoftDecodeError, match="pip install softdecode"):
        write_report(build_report(sources), tmp_path / "report")
    assert not (tmp_path / "report").exists()
    files = write_report(build_report(sources), tmp_path / "report", plots=False)
    assert not any(name.endswith(".png") for name in files)
    assert "![" not in (tmp_path / "report" / "report.md").read_text()
