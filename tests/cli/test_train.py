"""`softdecode train`: the four jobs of the preset `tiny`, one after the other."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from softdecode.calibration import Calibration
from softdecode.data.emoji import load_emoji
from softdecode.decoder import DistributionDecoder
from softdecode.files import read_json, tensor_sha256
from softdecode.images import to_unit_range
from softdecode.latents import encode_images
from softdecode.training.jobs import VARIANTS
from softdecode.training.presets import PRESETS
from softdecode.vlm.base import SamplingConfig
from softdecode.vlm.registry import load_vlm

JOBS = ("tokenizer", "vae", "vlm", "decoder")
TRAINED = PRESETS["tiny"]["decoder"]().variants


def record_of(stack, job):
    return json.loads((stack.runs / job / "run.json").read_text())


@pytest.mark.parametrize("job", JOBS)
def test_every_run_leaves_a_record_a_log_a_checkpoint_and_a_model(stack, job):
    folder = stack.runs / job
    assert {path.name for path in folder.iterdir()} == {"run.json", "log.jsonl", "checkpoint", "model"}
    record = record_of(stack, job)
    assert record["job"]["kind"].lower() == f"{job}job"
    assert record["job"]["samples"] == 16
    assert record["job"]["data_sha256"] == load_emoji(stack.data).digest
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["loss"] > 0 and line["samples_per_second"] > 0 for line in lines)


def test_a_config_file_changes_the_preset_and_options_change_the_file(stack):
    record = record_of(stack, "tokenizer")
    assert record["loop"]["betas"] == [0.9, 0.95], "from the file"
    assert record["loop"]["steps"] == 4, "the option, not the file's 2"
    assert record["loop"]["batch_size"] == 4, "the preset's"
    assert record["job"]["output"] == str(stack.runs / "tokenizer")
    assert record["job"]["resume"] is True


def test_a_resumed_job_gives_the_model_of_an_uninterrupted_one(stack, softdecode, tmp_path):
    options = ["--preset", "tiny", "--data", stack.data, "--loop.betas", 0.9, 0.95, "--loop.threads", 1]
    result = softdecode("train", "tokenizer", *options, "--output", tmp_path / "run")
    assert result.code == 0
    found, expected = (
        load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "run", stack.runs / "tokenizer")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_kind_of_value_in_a_config_file(stack, softdecode, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "limit: null\nresume: false\nloop:\n  steps: 1\n  compile: false\n  precision: fp32\n  learning_rate: 1.0e-4\n"
        "model:\n  channels: [8, 8, 8]\n  norm_groups: 2\n"
    )
    options = ["--preset", "tiny", "--data", stack.data, "--config", tmp_path / "config.yaml"]
    result = softdecode("train", "vae", *options, "--output", tmp_path / "run")
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["job"]["limit"] is None
    assert record["job"]["samples"] == 18, "the whole train split"
    assert record["job"]["model"]["channels"] == [8, 8, 8]
    assert record["job"]["model"]["norm_groups"] == 2
    assert (record["loop"]["precision"], record["loop"]["learning_rate"]) == ("fp32", 1e-4)


def test_the_vaes_latents_have_mean_0_and_deviation_1(stack):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(stack.runs / "vae" / "model")
    images = load_emoji(stack.data).split("train").images[:16]
    with torch.no_grad():
        latents = encode_images(vae, to_unit_range(images))
    assert latents.shape[1:] == (4, 16, 16)
    assert latents.mean().item() == pytest.approx(0, abs=1e-3)
    assert latents.std().item() == pytest.approx(1, rel=1e-3)


def test_the_vlm_has_the_tokenizers_codebook_and_its_sampling_settings(stack):
    vlm = load_vlm(stack.runs / "vlm" / "model")
    codes = load_file(stack.runs / "tokenizer" / "model" / "model.safetensors")["quantize.embedding.weight"]
    torch.testing.assert_close(vlm.tokenizer.codebook, torch.nn.functional.normalize(codes, dim=-1))
    assert vlm.tokenizer.grid == (8, 8)
    assert vlm.defaults == SamplingConfig()
    assert len(vlm.text_tokenizer) == 300


def test_decoders_are_calibrated_as_their_names_say(stack):
    fitted = Calibration.load(stack.runs / "calibration" / "calibration.json")
    folder = stack.runs / "decoder" / "model" / "decoders"
    assert {path.name for path in folder.iterdir()} == set(TRAINED)
    for name in TRAINED:
        variant = VARIANTS[name]
        decoder = DistributionDecoder.from_pretrained(folder / name)
        assert decoder.config.mode == variant.mode
        assert decoder.config.steps == 2
        if variant.calibrated:
            assert decoder.calibration == fitted
        else:
            assert (decoder.calibration.kappa, decoder.calibration.epsilon) == (1.0, 0.0)
            assert decoder.calibration.reached == fitted.raw
        assert decoder.config.codebook_sha256 == tensor_sha256(decoder.codebook)


def test_decoders_differ_in_their_conditions_and_share_their_base(stack):
    folder = stack.runs / "decoder" / "model"
    weights = {name: load_file(folder / "decoders" / name / "model.safetensors") for name in TRAINED}
    for name, tensors in weights.items():
        assert not [key for key in tensors if key.startswith("transformer.")]
        assert tensors["condition.projection.weight"].abs().max() > 0, f"{name} was trained"
    assert not torch.equal(weights["soft"]["condition.linear.weight"], weights["soft-raw"]["condition.linear.weight"])


def test_features_are_computed_once(stack, softdecode, tmp_path):
    """A second run on the same pictures and encoders reads the first one's files."""
    data = shutil.copytree(stack.data, tmp_path / "data")
    folders = data.glob("features/features-*")
    (features,) = (folder for folder in folders if read_json(folder / "identity.json")["encoder"]["vlm"] is None)
    shards = {path.name: path.stat().st_mtime_ns for path in features.iterdir()}
    caches = {path.name for path in features.parent.iterdir()}
    runs = stack.runs
    result = softdecode(
        *("train", "decoder", "--preset", "tiny", "--data", data, "--output", tmp_path / "run", "--loop.steps", 1),
        *("--vlm", runs / "vlm" / "model", "--vae", runs / "vae" / "model"),
        *("--calibration", runs / "calibration" / "calibration.json", "--loop.precision", "fp32"),
    )
    assert result.code == 0
    assert {path.name for path in features.parent.iterdir()} == caches
    assert {path.name: path.stat().st_mtime_ns for path in features.iterdir()} == shards
