"""`softdecode train decoder` on two processes, against the same on one."""

import json
import os
import subprocess
import sys

import pytest
import torch

from softdecode.decoder import DistributionDecoder
from softdecode.images import save_image, to_pil

LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
PLAIN = ("--mixed_precision", "no", "--dynamo_backend", "no")


@pytest.fixture(scope="module")
def alone(stack, softdecode_process, tmp_path_factory):
    """The run of the preset `tiny` on one process, with batches of 8."""
    output = tmp_path_factory.mktemp("alone")
    softdecode_process(["-m", "softdecode.cli.main", *train(stack, output)])
    return output


@pytest.fixture(scope="module")
def softdecode_process():
    def run(arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, *map(str, arguments)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-4000:]
        assert result.stdout.count("step 4/4") == 1
        return result

    return run


def train(stack, output):
    return ["train", "decoder", *options(stack, output)]


def options(stack, output):
    return [
        *("--preset", "tiny", "--data", stack.data, "--device", "cpu", "--loop.batch-size", 8),
        *("--loop.precision", "fp32", "--output", output, "--vlm", stack.runs / "vlm" / "model"),
        *("--vae", stack.runs / "vae" / "model"),
        *("--calibration", stack.runs / "calibration" / "calibration.json"),
    ]


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_train_the_decoders_that_one_would(stack, softdecode_process, alone, tmp_path, parallel):
    arguments = [*train(stack, tmp_path), "--loop.parallel", parallel, "--loop.preview-every", 4]
    softdecode_process([*LAUNCH, *PLAIN, "-m", "softdecode.cli.main", *arguments])
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-4)
    assert (tmp_path / "previews" / "step-000004.png").is_file()
    names = {path.name for path in (tmp_path / "model" / "decoders").iterdir()}
    assert {"hard", "soft", "joint"} <= names
    for name in names:
        found, expected = (
            DistributionDecoder.from_pretrained(run / "model" / "decoders" / name) for run in (tmp_path, alone)
        )
        for part in ("condition", "base"):
            for (key, value), other in zip(
                getattr(found, part).state_dict().items(), getattr(expected, part).state_dict().values(), strict=True
            ):
                torch.testing.assert_close(value, other, rtol=0, atol=2e-3, msg=key)


def test_a_published_base_that_is_shared_out_trains_as_on_one_process(stack, softdecode_process, photos, tmp_path):
    """It is read into the CPU's memory there, and shared out from it."""

    def arguments(output):
        return [
            *("-m", "softdecode.cli.main", "train", "decoder", "--preset", "janus-pro-flux-fill", "--device", "cpu"),
            *("--vlm", stack.vlm, "--base", stack.exported / "base", "--images", photos, "--output", output),
            *("--calibration", stack.runs / "calibration" / "calibration.json", "--cache", tmp_path / "cache"),
            *("--loop.steps", 4, "--loop.batch-size", 4, "--loop.warmup-steps", 1, "--loop.learning-rate", 1e-3),
            *("--loop.precision", "fp32", "--loop.log-every", 1, "--hidden-channels", 8),
        ]

    softdecode_process(arguments(tmp_path / "alone"))
    softdecode_process([*LAUNCH, *PLAIN, *arguments(tmp_path / "both"), "--loop.parallel", "fsdp2"])
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    assert len(losses(tmp_path / "both")) == 4
    assert DistributionDecoder.from_pretrained(tmp_path / "both" / "model").config.trained == "attention"


@pytest.fixture
def photos(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 64, 64), generator=generator).to(torch.uint8)
    for number, picture in enumerate(to_pil(images)):
        save_image(picture, tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"
