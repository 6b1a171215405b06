"""`softdecode evaluate draw` and `evaluate geneval` on the tiny stack."""

import json

import numpy as np
import pytest
from PIL import Image

PROMPTS = ["fluent disc", "noto ring", "twemoji box"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps({"tag": "colors", "prompt": prompt}) + "\n" for prompt in PROMPTS))
    return path


@pytest.fixture(scope="module")
def draw(softdecode, stack, prompts):
    def call(output, *options, benchmark="geneval", source=prompts):
        words = ["evaluate", "draw", "--benchmark", benchmark, "--prompts", source, *stack.models]
        return softdecode(*words, "--output", output, "--samples", 2, "--steps", 1, *options)

    return call


@pytest.fixture(scope="module")
def drawn(draw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    result = draw(folder, "--json")
    assert result.code == 0, result.err
    return folder, json.loads(result.out)


def pictures(folder):
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def test_both_trees_have_the_benchmarks_layout(drawn):
    folder, record = drawn
    expected = [f"{tree}/0000{n}/samples/000{s}.png" for tree in ("soft", "vq") for n in range(3) for s in range(2)]
    found = pictures(folder)
    assert list(found) == expected
    assert len({picture.tobytes() for picture in found.values()}) == 12, "each picture has its own seed"
    assert record["rows"] == [{"name": tree, "prompts": 3, "pictures": 6} for tree in ("vq", "soft")]
    assert record["protocol"]["whole"] is True
    assert json.loads((folder / "result.json").read_text()) == record


def test_a_run_is_taken_up_where_it_stopped(drawn, draw, tmp_path):
    """The first prompt alone, then all in other batches, one picture having been lost: as drawn at once."""
    first = draw(tmp_path, "--limit", 1)
    assert first.code == 0
    assert "drew 1 of 1 prompts" in first.out
    kept, lost = (tmp_path / "vq" / "00000" / "samples" / f"000{n}.png" for n in range(2))
    assert draw(tmp_path, "--limit", 1, "--batch-size", 5).out.startswith("drew 0 of 1 prompts")
    before = kept.stat().st_mtime_ns
    assert draw(tmp_path, "--limit", 2, "--batch-size", 3).out.startswith("drew 1 of 2 prompts")
    assert kept.stat().st_mtime_ns == before
    lost.unlink()
    assert draw(tmp_path, "--batch-size", 3).out.startswith("drew 2 of 3 prompts")
    found, expected = pictures(tmp_path), pictures(drawn[0])
    assert found.keys() == expected.keys()
    for name, picture in found.items():
        assert np.abs(picture.astype(int) - expected[name]).max() <= 1, name


def test_pictures_of_other_settings_are_not_mixed(drawn, draw, stack, tmp_path):
    folder, _ = drawn
    cases = {"seed": ("--seed", 7), "steps": ("--steps", 2), "sampling": ("--temperature", 0.5)}
    cases["models"] = ("--decoder", stack.decoders / "hard")
    for name, options in cases.items():
        result = draw(folder, *options)
        assert result.code == 2
        assert f"pictures of other settings ({name}; see settings.json)" in result.err
    (tmp_path / "vq").mkdir()
    assert "holds vq/ but no settings.json" in draw(tmp_path).err


def test_bad_input(draw, prompts, tmp_path):
    assert "dpg takes 1 or 4 pictures a prompt, got 2" in draw(tmp_path, benchmark="dpg").err
    assert "is not parti's file of prompts" in draw(tmp_path, benchmark="parti").err
    assert "--limit must be at least 1" in draw(tmp_path, "--limit", 0).err
    assert not list(tmp_path.iterdir())


def test_geneval_summary(softdecode, tmp_path):
    lines = [{"tag": tag, "correct": right, "metadata": tag} for tag, right in (("colors", True), ("counting", False))]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = softdecode("evaluate", "geneval", tmp_path / "results.jsonl", "--output", tmp_path / "out", "--json")
    assert result.code == 0
    record = json.loads(result.out)
    assert record["rows"][-1] == {"name": "overall", "accuracy": 0.5, "correct": 1, "count": 2}
    assert record["protocol"]["complete"] is False
    assert "not the whole of GenEval" in result.err
    assert record == json.loads((tmp_path / "out" / "result.json").read_text())
    assert softdecode("evaluate", "geneval", tmp_path / "none.jsonl").code == 2
