"""Where benchmarks look for their pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from softdecode.data.benchmarks import BenchmarkPrompt
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.benchmark_layout import BenchmarkLayout

COLOURS = ("red", "lime", "blue", "white")


def written(folder, benchmark, samples, key="00003"):
    layout = BenchmarkLayout.of(benchmark, samples)
    prompt = BenchmarkPrompt(key=key, prompt="x", metadata={"tag": "colors", "prompt": "x"})
    assert not layout.complete(folder, prompt)
    layout.write(folder, prompt, [Image.new("RGB", (4, 2), COLOURS[n % 4]) for n in range(layout.samples)])
    assert layout.complete(folder, prompt)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_geneval(tmp_path):
    files = written(tmp_path, "geneval", None)
    assert files == ["00003/metadata.jsonl", *(f"00003/samples/000{n}.png" for n in range(4))]
    assert json.loads((tmp_path / "00003" / "metadata.jsonl").read_text()) == {"tag": "colors", "prompt": "x"}


def test_dpg_has_four_pictures_in_reading_order(tmp_path):
    assert written(tmp_path, "dpg", None, "partiprompts1") == ["partiprompts1.png"]
    grid = np.asarray(Image.open(tmp_path / "partiprompts1.png"))
    assert grid.shape == (4, 8, 3)
    corners = [grid[y, x].tolist() for y, x in ((0, 0), (0, 7), (3, 0), (3, 7))]
    assert corners == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


def test_one_picture_each(tmp_path):
    assert written(tmp_path / "d", "dpg", 1) == ["00003.png"]
    assert written(tmp_path / "m", "mjhq", None, "plants/f00") == ["plants/f00.png"]
    assert written(tmp_path / "p", "parti", 2) == ["00003-0.png", "00003-1.png"]


@pytest.mark.parametrize(("benchmark", "samples"), [("dpg", 2), ("mjhq", 2), ("geneval", 0)])
def test_numbers_that_a_layout_cannot_hold(benchmark, samples):
    with pytest.raises(SoftDecodeError, match=f"{benchmark} takes .* pictures a prompt, got {samples}"):
        BenchmarkLayout.of(benchmark, samples)
