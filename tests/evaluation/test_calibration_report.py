"""Table 1 and the profile plot from a fitted calibration, and tables as text."""

import dataclasses

import pytest
import torch
from PIL import Image

from softdecode.calibration import Calibration, fit_calibration, proxy_logits
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.calibration_report import profile_plot, table1
from softdecode.evaluation.tables import table
from softdecode.statistics import statistics


@pytest.fixture(scope="module")
def calibration(make_codebook):
    codebook = make_codebook(40, 4)
    generator = torch.Generator().manual_seed(0)
    target = statistics([2 * torch.randn(1, 8, 8, 40, generator=generator)], codebook)
    similarities = proxy_logits(torch.randn(2, 8, 8, 4, generator=generator), codebook)
    return fit_calibration(lambda: [similarities], target, codebook)


def test_the_table_sets_vlm_and_encoder_side_by_side(calibration):
    rows = table1(calibration)
    titles = [row["statistic"] for row in rows]
    assert titles[:2] == ["top-1 probability", "top-2 probability"]
    assert {"normalised entropy", "tail entropy (beyond 8)", "Otsu rank", "head mass"} <= set(titles)
    by_title = {row["statistic"]: row for row in rows}
    entropy = by_title["normalised entropy"]
    assert entropy["VLM"] == calibration.target.entropy
    assert entropy["encoder"] == calibration.raw.entropy
    assert entropy["encoder (calibrated)"] == calibration.reached.entropy
    assert entropy["residual"] == calibration.reached.entropy - calibration.target.entropy
    assert abs(entropy["residual"]) < abs(entropy["encoder"] - entropy["VLM"]), "calibration brings them together"
    assert by_title["Otsu rank"]["VLM"] == calibration.target.otsu_rank


def test_every_statistic_but_the_profile_is_in_the_table(calibration):
    fields = {field.name for field in dataclasses.fields(calibration.target)} - {"tokens", "profile"}
    assert len(table1(calibration)) == len(fields)


def test_the_table_as_text_has_the_same_rows(calibration):
    lines = table1(calibration, as_text=True).splitlines()
    assert len(lines) == 2 + len(table1(calibration))
    assert lines[0].split("|")[1].strip() == "statistic"
    assert len({line.count("|") for line in lines}) == 1
    assert f"{calibration.target.top1:.4g}" in lines[2]


def test_a_calibration_set_by_hand_has_no_table():
    with pytest.raises(SoftDecodeError, match="was set by hand"):
        table1(Calibration(kappa=3.0))


def test_the_plot_is_a_picture(calibration, tmp_path):
    pytest.importorskip("matplotlib")
    profile_plot(calibration, tmp_path / "new" / "profile.png")
    with Image.open(tmp_path / "new" / "profile.png") as image:
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(10**6)) > 20, "there are curves on it"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["profile.png"]


def test_without_matplotlib_the_plot_says_what_to_install(calibration, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(SoftDecodeError, match="pip install softdecode"):
        profile_plot(calibration, tmp_path / "profile.png")
    assert list(tmp_path.iterdir()) == []


def test_tables_are_markdown_with_four_digits_and_dashes():
    rows = [{"name": "a", "value": 1234.5678, "n": 3}, {"name": "longer", "value": None, "n": 1.5e-7}]
    assert table(rows, ["name", "value", "n", "absent"]).splitlines() == [
        "| name   | value | n       | absent |",
        "| ------ | ----- | ------- | ------ |",
        "| a      | 1235  | 3       | –      |",
        "| longer | –     | 1.5e-07 | –      |",
    ]
