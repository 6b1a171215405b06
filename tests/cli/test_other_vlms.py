"""VLMs for which no decoder was trained: the commands work, and say what the soft pictures are worth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.calibration import Calibration
from softdecode.files import tensor_sha256
from softdecode.mapping import TokenDistribution
from softdecode.vlm.registry import load_vlm

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden checkpoints, which are not here")


@pytest.fixture(scope="module")
def golden_models(tmp_path_factory, softdecode):
    """The golden checkpoints as model folders: Janus as it is, LlamaGen's files converted."""
    folder = tmp_path_factory.mktemp("golden")
    vq = GOLDEN / "llamagen_vq" / "mini_f32"
    for name, extra in (("t2i", ("--captions", GOLDEN / "llamagen_t2i" / "t5-ckpt" / "flan-t5-xl")), ("c2i", ())):
        files = ["--gpt", GOLDEN / f"llamagen_{name}" / f"{name}_tiny.pt", "--vq", next(vq.glob("*.pt"))]
        result = softdecode(
            "convert-llamagen", *files, *extra, "--image-size", 128, "--heads", 4, "--output", folder / name
        )
        assert result.code == 0, result.err
    return {"janus": GOLDEN / "janus" / "repo", "t2i": folder / "t2i", "c2i": folder / "c2i"}


def test_a_vlm_of_another_codebook_gets_an_untrained_decoder_and_a_warning(stack, softdecode, tmp_path):
    result = softdecode("generate", "--model", stack.vlm, "--output", tmp_path, "--steps", 2, "a", "b")
    assert result.code == 0
    assert [line for line in result.said if "no trained decoder for vlm" in line] == result.said
    assert "untrained" in result.said[0]
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["models"]["trained"] == "none"
    vlm = load_vlm(stack.vlm)
    assert record["models"]["codebook_sha256"] == tensor_sha256(vlm.tokenizer.codebook)
    seen = TokenDistribution.load(tmp_path / "000.safetensors")
    vq = np.asarray(Image.open(tmp_path / "000-vq.png"))
    decoded = vlm.tokenizer.decode(seen.tokens)[0]
    expected = ((decoded + 1) * 127.5).round().permute(1, 2, 0).numpy()
    np.testing.assert_allclose(vq, expected, atol=1)


def test_an_untrained_decoder_takes_the_base_that_is_named(stack, softdecode, tmp_path):
    """Not trained at all, it denoises as the base does, whatever it sees."""
    usual = ("--model", stack.vlm, "--steps", 2, "--base", stack.exported / "base")
    assert softdecode("generate", *usual, "--output", tmp_path / "one", "a").code == 0
    assert softdecode("generate", *usual, "--output", tmp_path / "other", "b").code == 0
    one, other = (np.asarray(Image.open(tmp_path / name / "000-soft.png")) for name in ("one", "other"))
    np.testing.assert_array_equal(one, other)
    record = json.loads((tmp_path / "one" / "result.json").read_text())
    assert record["models"]["base"] == str(stack.exported / "base")


def test_a_trained_decoder_may_be_told_where_its_base_is(stack, softdecode, tmp_path):
    for name, where in (("here", ()), ("there", ("--base", stack.exported / "base"))):
        assert softdecode("generate", *stack.models, *where, "--output", tmp_path / name, "a").code == 0
    here, there = (np.asarray(Image.open(tmp_path / name / "000-soft.png")) for name in ("here", "there"))
    np.testing.assert_array_equal(here, there)


def test_the_doctor_runs_an_untrained_decoder(stack, softdecode):
    result = softdecode("doctor", "--model", stack.vlm, "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert report["decoder"]["trained"] == "none"
    assert str(stack.vlm / "model.safetensors") in report["sha256"]
    assert not any("decoders" in name for name in report["sha256"])


@golden
@pytest.mark.parametrize(("name", "prompts"), [("janus", ("a red apple", "dog")), ("t2i", ("a dog",)), ("c2i", ("3",))])
def test_golden_checkpoints_generate(name, prompts, golden_models, softdecode, tmp_path):
    result = softdecode(
        "generate", "--model", golden_models[name], "--output", tmp_path, "--steps", 2, "--seed", 5, *prompts
    )
    assert result.code == 0, result.err
    assert "no trained decoder" in result.err
    for place in range(len(prompts)):
        for kind in ("vq", "soft"):
            with Image.open(tmp_path / f"{place:03d}-{kind}.png") as image:
                assert image.size == (128, 128)
    assert json.loads((tmp_path / "result.json").read_text())["seeds"] == [5 + place for place in range(len(prompts))]
    distribution = TokenDistribution.load(tmp_path / "000.safetensors")
    assert distribution.tokens.shape == (1, 8, 8)
    assert torch.isfinite(distribution.codes).all()


@golden
@pytest.mark.parametrize(("name", "prompts"), [("janus", "a red apple\ndog\n"), ("t2i", "a dog\n"), ("c2i", "3\n7\n")])
def test_golden_checkpoints_calibrate(name, prompts, golden_models, softdecode, tmp_path):
    (tmp_path / "prompts.txt").write_text(prompts)
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for place in range(3):
        pixels = generator.integers(0, 255, (140, 150, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{place}.png")
    result = softdecode(
        *("calibrate", "--model", golden_models[name], "--output", tmp_path / "out"),
        *("--prompts", tmp_path / "prompts.txt", "--images", tmp_path / "images", "--draws", prompts.count("\n")),
    )
    assert result.code == 0, result.err
    calibration = Calibration.load(tmp_path / "out" / "calibration.json")
    assert calibration.target is not None
    assert calibration.reached is not None
    assert abs(calibration.target.entropy - calibration.reached.entropy) < 0.005
    assert (tmp_path / "out" / "profile.png").is_file()
