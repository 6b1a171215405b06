"""`--initial`: a run that starts from an earlier one's weights."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file


@pytest.mark.parametrize(
    ("job", "weights"),
    [
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("vlm", "model.safetensors"),
        ("decoder", "base/transformer/diffusion_pytorch_model.safetensors"),
        ("decoder", "decoders/joint/model.safetensors"),
    ],
)
def test_a_run_can_start_from_an_earlier_one(stack, softdecode, tmp_path, job, weights):
    runs = stack.runs
    needs = {
        "vae": [],
        "vlm": ["--tokenizer", runs / "tokenizer" / "model"],
        "decoder": [
            *("--vlm", runs / "vlm" / "model", "--vae", runs / "vae" / "model"),
            *("--calibration", runs / "calibration" / "calibration.json"),
        ],
    }[job]
    # Another seed, and a rate at which one step changes nothing: what comes out is what went in.
    still = ["--loop.steps", 1, "--loop.learning-rate", 1e-12, "--loop.seed", 7, "--output", tmp_path / "run"]
    options = ["--preset", "tiny", "--data", stack.data, *needs, *still]
    assert softdecode("train", job, *options, "--initial", runs / job / "model").code == 0
    before, after = load_file(runs / job / "model" / weights), load_file(tmp_path / "run" / "model" / weights)
    assert before.keys() == after.keys()
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 1e-6


def test_weights_of_another_size_are_refused(stack, softdecode, tmp_path):
    options = ["--preset", "tiny", "--data", stack.data, "--output", tmp_path / "run", "--model.latent-channels", 8]
    result = softdecode("train", "vae", *options, "--initial", stack.runs / "vae" / "model")
    assert result.code == 2
    assert "misshaped" in result.said[-1]


def test_a_vlm_of_other_captions_is_refused(stack, softdecode, tmp_path):
    """Its weights would fit, but its words have other numbers."""
    other = shutil.copytree(stack.runs / "vlm" / "model", tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary["something"] = vocabulary.pop(last)
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if "".join(pair) != last]
    (other / "tokenizer.json").write_text(json.dumps(content))
    options = ["--preset", "tiny", "--data", stack.data, "--tokenizer", stack.runs / "tokenizer" / "model"]
    result = softdecode("train", "vlm", *options, "--output", tmp_path / "run", "--initial", other)
    assert result.code == 2
    assert "its text tokenizer differs" in result.said[-1]


def test_a_decoder_without_draft_goes_on_as_one_with_a_draft(stack, softdecode, tmp_path):
    """The draft's projection starts at zero; all else is as it was."""
    runs = stack.runs
    options = [
        *("--preset", "tiny", "--data", stack.data, "--vlm", runs / "vlm" / "model", "--vae", runs / "vae" / "model"),
        *("--calibration", runs / "calibration" / "calibration.json", "--loop.learning-rate", 1e-12, "--loop.steps", 1),
    ]
    assert softdecode("train", "decoder", *options, "--no-draft", "--output", tmp_path / "plain").code == 0
    initial = tmp_path / "plain" / "model"
    assert softdecode("train", "decoder", *options, "--output", tmp_path / "run", "--initial", initial).code == 0
    file = "decoders/soft/model.safetensors"
    before, after = load_file(initial / file), load_file(tmp_path / "run" / "model" / file)
    assert after.keys() - before.keys() == {"condition.draft.weight"}
    assert after["condition.draft.weight"].abs().max() < 1e-6
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
