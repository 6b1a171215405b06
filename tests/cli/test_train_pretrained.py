"""A decoder on a pretrained base: the preset janus-pro-flux-fill, the tiny stack's models in place of the large."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from softdecode.base import load_base
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import read_config
from softdecode.images import save_image, to_pil
from softdecode.trained import is_trained

# Said once a process, by torch: RMSNorms under autocast have bfloat16 activations and float32 weights.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures, one of them larger than the model's and not square."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for number in range(6):
        size = (64, 64) if number else (80, 100)
        image = torch.randint(0, 256, (1, 3, *size), generator=generator).to(torch.uint8)
        save_image(to_pil(image)[0], folder / f"{number}.png")
    return folder


@pytest.fixture
def options(stack, folder, tmp_path):
    return [
        *("--preset", "janus-pro-flux-fill", "--output", tmp_path / "run", "--device", "cpu"),
        *("--vlm", stack.vlm, "--base", stack.exported / "base", "--images", folder, "--hidden-channels", 8),
        *("--calibration", stack.runs / "calibration" / "calibration.json", "--cache", tmp_path / "cache"),
        *("--loop.steps", 3, "--loop.batch-size", 4, "--loop.warmup-steps", 1, "--loop.learning-rate", 1e-2),
        *("--loop.ema-decay", 0.0, "--loop.threads", 1, "--loop.checkpoint-every", 3),
    ]


@pytest.mark.parametrize(
    "part", [["adapter"], ["attention"], ["lora", "--lora-rank", "2", "--lora-alpha", "4"], ["all"]]
)
def test_a_decoder_is_trained_saved_and_loads_on_its_base(part, options, stack, softdecode, tmp_path):
    result = softdecode("train", "decoder", *options, "--trained", *part)
    assert result.code == 0, result.err
    model = tmp_path / "run" / "model"
    config = read_config(model)
    assert (config.trained, config.mode, config.steps, config.image_size) == (part[0], "soft", 30, (64, 64))
    assert config.base == str((stack.exported / "base").resolve())
    loaded = DistributionDecoder.from_pretrained(model)  # strictly, base and all
    plain = load_base(stack.exported / "base").transformer.state_dict()
    weights = load_file(model / "model.safetensors")
    for name, value in plain.items():
        saved = weights.get(f"transformer.{name}")
        assert (saved is not None) == is_trained(name, config.trained), name
        if saved is not None:
            assert not torch.equal(saved, value.bfloat16().to(saved.dtype)), f"{name} was not trained"
    if part[0] == "lora":
        assert all(value.any() for name, value in weights.items() if "lora_B" in name)
    assert weights["condition.projection.weight"].any()
    assert loaded.calibration.epsilon == json.loads((model / "calibration.json").read_text())["epsilon"]
    assert f"what was trained: {part[0]}, " in (model / "README.md").read_text()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["job"]["kind"] == "PretrainedDecoderJob"
    assert record["job"]["samples"] == 6


def test_an_earlier_decoder_is_trained_further(options, softdecode, tmp_path):
    """At a rate at which one step changes nothing, what comes out is what went in."""
    assert softdecode("train", "decoder", *options).code == 0
    earlier = tmp_path / "run" / "model"
    still = ["--loop.learning-rate", 1e-12, "--loop.steps", 1, "--output", tmp_path / "again", "--initial", earlier]
    assert softdecode("train", "decoder", *options, *still).code == 0
    before, after = (load_file(run / "model.safetensors") for run in (earlier, tmp_path / "again" / "model"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    result = softdecode("train", "decoder", *options, *still[:-4], "--initial", earlier, "--mode", "joint",
                        "--output", tmp_path / "other")  # fmt: skip
    assert result.code == 2
    assert "differ in mode" in result.said[-1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--trained", "none"], "--trained none trains nothing"),
        (["--trained", "lora"], "lora_rank of at least 1"),
        (["--lora-rank", "4"], "lora_rank and lora_alpha are for trained=lora"),
        (["--calibration", "None"], "need --calibration"),
        (["--hidden-channels", "12"], "multiple of 8"),
        (["--views", "0"], "at least 1"),
        (["--images", "/absent"], "is no source of pictures"),
        (["--augmentation", "mirror"], "--augmentation needs --views 2 or --live"),
        (["--corruption", "0.1"], "does not see the proxy's chosen tokens"),
        (["--initial", "/absent"], "/absent"),
        (["--source", "teacher-forced"], "teacher forcing needs captions"),
    ],
)
def test_what_cannot_be_trained_is_refused(wrong, message, options, softdecode):
    result = softdecode("train", "decoder", *options, *wrong)
    assert result.code == 2
    assert message in result.said[-1]


def test_what_is_missing_is_said_before_the_pictures_are_encoded(options, softdecode, tmp_path):
    result = softdecode("train", "decoder", *options, "--calibration", tmp_path / "absent.json")
    assert result.code == 2
    assert "absent.json" in result.said[-1]
    assert not (tmp_path / "cache").exists()


def test_hard_decoders_need_no_calibration(options, softdecode, tmp_path):
    absent = ["--calibration", tmp_path / "absent.json", "--loop.steps", 1]
    result = softdecode("train", "decoder", *options, *absent, "--mode", "hard")
    assert result.code == 0, result.err
    assert read_config(tmp_path / "run" / "model").mode == "hard"


def test_pictures_can_be_streamed_and_encoded_in_the_step(options, softdecode, tmp_path):
    """Two steps, and two more in another go; the cache stays empty, previews show the first pictures."""
    live = ["--live", "--loop.preview-every", 2, "--loop.checkpoint-every", 2]
    result = softdecode("train", "decoder", *options, *live, "--loop.steps", 2)
    assert result.code == 0, result.err
    result = softdecode("train", "decoder", *options, *live, "--loop.steps", 4, "--resume")
    assert result.code == 0, result.err
    assert not (tmp_path / "cache").exists()
    assert len(list((tmp_path / "run" / "previews").iterdir())) == 2
    assert DistributionDecoder.from_pretrained(tmp_path / "run" / "model").config.trained == "attention"


def test_previews_can_show_other_pictures(options, folder, softdecode, tmp_path):
    (tmp_path / "shown").mkdir()
    shutil.copy(folder / "3.png", tmp_path / "shown")
    shown = ["--loop.preview-every", 1, "--loop.steps", 1, "--preview-images", tmp_path / "shown"]
    result = softdecode("train", "decoder", *options, *shown)
    assert result.code == 0, result.err
    with Image.open(tmp_path / "run" / "previews" / "step-000001.png") as sheet:
        assert sheet.size[1] < 200, "one picture"


def test_an_empty_folder_is_refused(options, softdecode, tmp_path):
    (tmp_path / "empty").mkdir()
    result = softdecode("train", "decoder", *options, "--images", tmp_path / "empty")
    assert result.code == 2
    assert "holds no picture" in result.said[-1]


def test_a_preset_of_decoders_is_for_nothing_else(softdecode):
    result = softdecode("train", "vae", "--preset", "janus-pro-flux-fill")
    assert result.code == 2
    assert "janus-pro-flux-fill has no job vae; it has decoder" in result.said[-1]
