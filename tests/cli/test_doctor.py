"""`softdecode doctor`: what a model folder holds, and that it works."""

import json

import pytest
import torch
from diffusers import FluxTransformer2DModel

from softdecode.base import FluxBase
from softdecode.files import file_sha256
from softdecode.memory import catalogue


@pytest.fixture(scope="module")
def report(stack, softdecode):
    result = softdecode("doctor", *stack.models, "--json")
    assert result.code == 0
    assert result.said == []
    return json.loads(result.out)


def test_the_report(report, stack):
    config = json.loads((stack.decoders / "joint" / "config.json").read_text())
    assert report["codebook"] == {"codes": 64, "dim": 8, "sha256": config["codebook_sha256"]}
    assert report["vlm"] == {"name": "vlm", "grid": [8, 8], "image_size": [64, 64]}
    assert report["decoder"] == {"mode": "joint", "steps": 3, "trained": "adapter"}
    assert report["decoded"] == {"vq": [1, 3, 64, 64], "soft": [1, 3, 64, 64]}
    assert (report["device"], report["dtype"]) == ("cpu", "torch.float32")


def test_hashes_are_those_of_the_files(report, stack):
    assert str(stack.decoders / "joint" / "model.safetensors") in report["sha256"]
    for name, digest in report["sha256"].items():
        assert file_sha256(name) == digest


def test_every_file_of_weights_has_its_hash(report, stack):
    used = [stack.vlm, stack.exported / "base", stack.decoders / "joint"]
    weights = {file_sha256(path) for folder in used for path in folder.rglob("*.safetensors")}
    assert weights <= set(report["sha256"].values())


def test_the_report_as_text(stack, softdecode):
    result = softdecode("doctor", *stack.models)
    assert result.code == 0
    assert result.out.endswith("all weights loaded strictly; VQ and soft decoding work\n")
    assert 'decoder: {"mode": "joint", "steps": 3, "trained": "adapter"}' in result.out


def test_estimates_as_json_and_as_a_table(softdecode):
    usual = ("doctor", "--estimate", "--model", "janus-pro-1b", "--base", "sd3-medium")
    result = softdecode(*usual, "--json")
    assert result.code == 0
    found = json.loads(result.out)["estimates"]
    assert {(e["offload"], e["quantization"]) for e in found} >= {("none", "none"), ("model", "nf4")}
    text = softdecode(*usual).out
    for row in found:
        assert f"| {row['peak'] / 1e9:.1f} " in text
        assert row["peak"] == max(row["phases"].values())
    whole = softdecode(*usual, "--json", "--dtype", "float32")
    assert json.loads(whole.out)["estimates"][0]["vlm_weights"] == pytest.approx(2 * found[0]["vlm_weights"], rel=1e-6)


def test_an_estimate_for_an_unknown_model(softdecode):
    result = softdecode("doctor", "--estimate", "--model", "emoji64")
    assert result.code == 2
    assert "known are janus-pro-1b" in result.err


def test_an_estimate_prints_all_modes_and_takes_none(softdecode):
    result = softdecode("doctor", "--estimate", "--offload", "model", "--quantize-vlm", "nf4")
    assert result.code == 2
    assert "no use for --offload, --quantize-vlm" in result.err


@pytest.fixture
def small(monkeypatch):
    """Options that name small models with the real tokenizer and VAE; and two ways to train in place of five."""

    def base(dtype):
        with torch.device("meta"):
            transformer = FluxTransformer2DModel(
                in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=12, pooled_projection_dim=6, axes_dims_rope=(4, 6, 6),
            )  # fmt: skip
        return FluxBase(transformer, catalogue.sd3(1, 1, 0, 192, dtype, None).vae).to(dtype)

    monkeypatch.setitem(catalogue.BASES, "small", base)
    monkeypatch.setitem(catalogue.VLMS, "small", lambda dtype: catalogue.janus(64, 128, 2, 2, dtype))
    monkeypatch.setattr("softdecode.memory.training.LAYOUTS", (("single", 1), ("fsdp2", 4)))
    monkeypatch.setattr("softdecode.memory.training.MICRO_BATCHES", (1,))
    return ["--model", "small", "--base", "small"]


def test_training_estimates_as_json_and_as_tables(softdecode, small):
    usual = ("doctor", "--estimate-training", *small, "--batch-size", 8)
    result = softdecode(*usual, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["estimates"].keys() == {"janus-pro-flux-fill", "janus-pro-flux-fill-lora"}
    text = softdecode(*usual)
    assert text.said == []
    for found in report["estimates"].values():
        assert f"{found['counts']['trained'] / 1e9:.3f}B parameters are trained" in text.out
        for row in found["rows"]:
            assert row["total"] == row["activations"] + sum(row["state"].values())
            assert row["accumulation"] * row["micro_batch"] * row["processes"] == 8
            assert f"| {row['total'] / 1e9:.1f}   |" in text.out
    assert "8 pictures in a step" in text.out
    whole, lora = (report["estimates"][name] for name in ("janus-pro-flux-fill", "janus-pro-flux-fill-lora"))
    assert lora["counts"]["transformer"] == whole["counts"]["transformer"]
    assert lora["counts"]["trained"] != whole["counts"]["trained"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--estimate"], "two reports"),
        (["--dtype", "float32"], "no --dtype"),
        (["--offload", "model"], "no use for --offload"),
        (["--batch-size", "0"], "must be at least 1"),
        (["--model", "emoji64"], "known are janus-pro-1b"),
        (["--batch-size", "6"], "4 processes cannot share a batch of 6"),
    ],
)
def test_training_estimates_refuse_what_they_cannot_use(options, message, softdecode, small):
    result = softdecode("doctor", "--estimate-training", *small, *options)
    assert result.code == 2
    assert message in result.err


def test_a_batch_size_is_for_estimates(softdecode):
    result = softdecode("doctor", "--batch-size", 2)
    assert result.code == 2
    assert "--batch-size is for --estimate" in result.err
