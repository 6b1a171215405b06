"""`--initial`: a run that starts from an earlier one's weights."""

import pytest
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
