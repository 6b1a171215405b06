"""What is drawn, and that awkward inputs draw, too."""

import pytest
from PIL import Image

from softdecode.evaluation.report import plots
from softdecode.evaluation.report.inputs import find_sources
from softdecode.evaluation.report.pool import make_pools

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(monkeypatch):
    """The last figure that would have been written."""
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    return figures


@pytest.fixture
def pool(write):
    def make(content):
        (found,) = make_pools(find_sources([write("result.json", content)]))
        return found

    return make


def test_curves_of_decoders_and_lines_of_baselines(pool, results, drawn, tmp_path):
    plots.plot_steps(pool(results.reconstruction()), tmp_path / "p.png")
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["Frechet ↓", "kernel ↓", "PSNR ↑", "SSIM ↑"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines) == ["hard", "soft", "vq", "vae-ceiling"]
    assert [list(map(float, values)) for values in lines["hard"].get_data()] == [[2, 4], [80, 60]]
    assert set(lines["vq"].get_ydata()) == {100}
    assert set(lines["vae-ceiling"].get_ydata()) == {10}
    assert list(figure.axes[0].get_xticks()) == [2, 4]


def test_bits_of_every_row(pool, results, drawn, tmp_path):
    plots.plot_bits(pool(results.reconstruction()), None, tmp_path / "p.png")
    points = {line.get_label(): (*line.get_xdata(), *line.get_ydata()) for line in drawn[0].axes[0].lines}
    assert points["vae-ceiling"] == (16, 40)
    assert points["soft"] == (3, 21.5)
    assert points["vq"] == (0.5, 20)


def test_latency_against_one(drawn, tmp_path):
    plots.plot_latency("soft", [(1, 1.1), (8, 1.5)], tmp_path / "p.png")
    curve, usual = drawn[0].axes[0].lines
    assert list(curve.get_ydata()) == [1.1, 1.5]
    assert set(usual.get_ydata()) == {1}


def test_names_are_no_formulas(pool, results, tmp_path):
    rows = [results.row(r"a$\foo$", 5, steps, psnr=3.0, ssim=0.5) for steps in (1, 2)]
    plots.plot_steps(pool(results.result(rows)), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert min(image.size) > 200


def test_generation_has_no_bits_to_show(pool, results):
    assert not plots.has_bits(pool(results.generation()))
