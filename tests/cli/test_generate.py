"""`softdecode generate`: the same pictures in any batch, and a record of what was done."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.mapping import TokenDistribution
from softdecode.pipeline import SoftDecodePipeline
from softdecode.vlm.registry import load_vlm

PROMPTS = ["noto disc number 1", "a", "twemoji ring number 7 that nobody has ever seen"]


@pytest.fixture(scope="module")
def generated(stack, softdecode, tmp_path_factory):
    """Three prompts in one batch: the result and its folder."""
    folder = tmp_path_factory.mktemp("generated")
    result = softdecode("generate", *PROMPTS, *stack.models, "--seed", 5, "--output", folder)
    assert result.code == 0
    return result, folder


@pytest.fixture(scope="module")
def pipe(stack):
    return SoftDecodePipeline.from_pretrained(stack.decoders / "joint", vlm=stack.vlm)


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image).astype(int)


def assert_same_pictures(folder, name, expected_folder, expected_name):
    """The same tokens; codes and pixels up to what rounding in another batch may change."""
    found, expected = (
        TokenDistribution.load(place / f"{number}.safetensors")
        for place, number in ((folder, name), (expected_folder, expected_name))
    )
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.codes, expected.codes, rtol=0, atol=1e-5)
    for kind in ("vq", "soft"):
        images = pixels(folder / f"{name}-{kind}.png"), pixels(expected_folder / f"{expected_name}-{kind}.png")
        assert np.abs(images[0] - images[1]).max() <= 1


def test_every_prompt_has_two_pictures_and_its_distribution(generated):
    _, folder = generated
    expected = {f"{number:03d}{end}" for number in range(3) for end in ("-vq.png", "-soft.png", ".safetensors")}
    assert {path.name for path in folder.iterdir()} == expected | {"comparison.png", "result.json"}
    assert all(pixels(path).shape == (64, 64, 3) for path in folder.glob("*-*.png"))
    sheet = pixels(folder / "comparison.png")
    # Each picture is in the sheet, doubled without smoothing.
    for kind, column in (("vq", 0), ("soft", 1)):
        for row in range(3):
            big = pixels(folder / f"{row:03d}-{kind}.png").repeat(2, 0).repeat(2, 1)
            top, left = 28 + row * 136, 190 + column * 136
            assert np.array_equal(sheet[top : top + 128, left : left + 128], big)


def test_the_record_says_how_it_was_done(generated, stack):
    result, folder = generated
    record = json.loads((folder / "result.json").read_text())
    assert record.keys() == {
        *("command", "prompts", "seeds", "steps", "batch_size", "sampling", "models", "device", "seconds"),
        *("decode_overhead_percent", "provenance"),
    }
    assert record["command"] == "generate"
    assert record["prompts"] == PROMPTS
    assert record["seeds"] == [5, 6, 7]
    assert record["steps"] == 3, "the decoder's own number"
    assert record["sampling"] == json.loads((stack.vlm / "softdecode_sampling.json").read_text())
    assert record["models"]["model"] == str(stack.vlm)
    decoder = json.loads((stack.decoders / "joint" / "config.json").read_text())
    assert record["models"]["codebook_sha256"] == decoder["codebook_sha256"]
    assert record["seconds"].keys() == {"load", "vlm", "vq", "soft"}
    assert all(value >= 0 for value in record["seconds"].values())
    assert record["provenance"].keys() >= {"git", "versions", "python", "machine", "threads", "time"}
    assert result.out.startswith("wrote 3 pairs and comparison.png to ")
    assert result.said == [], "bars leave nothing behind"


def test_the_overhead_is_that_of_the_whole_soft_way_over_the_usual_one(generated, stack):
    """The stack's decoder sees the VQ decoder's picture, so the soft way has that one's seconds, too."""
    _, folder = generated
    assert json.loads((stack.decoders / "joint" / "config.json").read_text())["draft"]
    record = json.loads((folder / "result.json").read_text())
    seconds = record["seconds"]
    usual = seconds["vlm"] + seconds["vq"]
    expected = 100 * seconds["soft"] / usual
    # The record rounds seconds to a millisecond.
    assert record["decode_overhead_percent"] == pytest.approx(expected, abs=100 * 2 * 0.001 / usual + 0.1)


def test_it_is_deterministic(generated, stack, softdecode, tmp_path):
    _, folder = generated
    assert softdecode("generate", *PROMPTS, *stack.models, "--seed", 5, "--output", tmp_path).code == 0
    for path in folder.iterdir():
        if path.name != "result.json":
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_batch_size_changes_nothing(generated, stack, softdecode, tmp_path, batch_size):
    _, folder = generated
    options = ["--seed", 5, "--batch-size", batch_size, "--output", tmp_path]
    assert softdecode("generate", *PROMPTS, *stack.models, *options).code == 0
    for number in ("000", "001", "002"):
        assert_same_pictures(tmp_path, number, folder, number)


def test_a_picture_has_the_seed_of_its_place(generated, stack, softdecode, tmp_path):
    _, folder = generated
    options = ["--seed", 7, "--output", tmp_path]
    assert softdecode("generate", PROMPTS[2], *stack.models, *options).code == 0
    assert_same_pictures(tmp_path, "000", folder, "002")
    assert softdecode("generate", PROMPTS[2], *stack.models, "--seed", 8, "--output", tmp_path).code == 0
    other = TokenDistribution.load(tmp_path / "000.safetensors").tokens
    assert not torch.equal(other, TokenDistribution.load(folder / "002.safetensors").tokens)


@torch.no_grad()
def test_pictures_are_those_of_the_saved_distribution(generated, pipe):
    """It can be decoded again without the VLM."""
    _, folder = generated
    distribution = TokenDistribution.load(folder / "001.safetensors")
    soft = pipe.decode(distribution, seeds=[6]).permute(0, 2, 3, 1)[0]
    assert np.abs(soft.numpy().astype(int) - pixels(folder / "001-soft.png")).max() <= 1
    vq = pipe.vlm.tokenizer.decode(distribution.tokens)[0].permute(1, 2, 0)
    assert np.abs((vq.numpy() * 127.5 + 127.5) - pixels(folder / "001-vq.png")).max() <= 0.51


def test_the_decoders_smoothing_is_applied_to_the_belief(stack, softdecode, tmp_path):
    exported = shutil.copytree(stack.exported, tmp_path / "stack")
    path = exported / "decoders" / "joint" / "calibration.json"
    content = json.loads(path.read_text())
    codes, tokens = [], []
    for epsilon in (0.0, 0.3):
        path.write_text(json.dumps(content | {"epsilon": epsilon}))
        models = ["--model", exported / "vlm", "--decoder", exported / "decoders" / "joint"]
        # The untrained VLM is nearly indifferent: a low temperature makes its belief differ from the mean code.
        options = ["--temperature", 0.02, "--output", tmp_path / "output"]
        assert softdecode("generate", "a", *models, *options).code == 0
        found = TokenDistribution.load(tmp_path / "output" / "000.safetensors")
        codes.append(found.codes)
        tokens.append(found.tokens)
    assert torch.equal(*tokens)
    mean = load_vlm(stack.vlm).tokenizer.codebook.mean(0)
    torch.testing.assert_close(codes[1], 0.7 * codes[0] + 0.3 * mean, rtol=0, atol=1e-5)
    assert (codes[1] - codes[0]).abs().max() > 0.01


def test_options_change_the_settings(stack, softdecode, tmp_path):
    options = ["--steps", 1, "--guidance-scale", 1.5, "--temperature", 0.5, "--top-k", 3, "--dtype", "bfloat16"]
    assert softdecode("generate", "a", *stack.models, *options, "--output", tmp_path).code == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["steps"] == 1
    assert record["sampling"] == {"guidance_scale": 1.5, "temperature": 0.5, "top_k": 3, "top_p": 1.0}
    assert record["models"]["dtype"] == "bfloat16"


def test_json_is_all_there_is_on_standard_output(stack, softdecode, tmp_path):
    result = softdecode("generate", "a", *stack.models, "--json", "--output", tmp_path)
    assert result.code == 0
    assert json.loads(result.out) == json.loads((tmp_path / "result.json").read_text())
    assert result.said == []


def test_with_json_there_are_no_bars(stack, softdecode, tmp_path):
    result = softdecode("generate", "a", *stack.models, "--json", "--output", tmp_path)
    assert result.err == ""
