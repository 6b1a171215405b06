"""`softdecode train decoder` on two processes, against the same on one."""

import json
import os
import subprocess
import sys

import pytest
import torch

from softdecode.decoder import DistributionDecoder


@pytest.fixture(scope="module")
def folder(stack, tmp_path_factory):
    """The run of the preset `tiny`, sharded over two processes, with batches of 8."""
    output = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "softdecode.cli.main", "train", "decoder", *options(stack, output)]
    command += ["--loop.parallel", "fsdp2", "--loop.preview-every", 4]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    result = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("step 4/4") == 1
    return output


def options(stack, output):
    return [
        *("--preset", "tiny", "--data", stack.data, "--device", "cpu", "--loop.batch-size", 8),
        *("--loop.precision", "fp32", "--output", output, "--vlm", stack.runs / "vlm" / "model"),
        *("--vae", stack.runs / "vae" / "model"),
        *("--calibration", stack.runs / "calibration" / "calibration.json"),
    ]


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_processes_train_the_decoders_that_one_would(stack, softdecode, folder, tmp_path):
    result = softdecode("train", "decoder", *options(stack, tmp_path / "alone"))
    assert result.code == 0, result.err
    assert losses(folder) == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    assert (folder / "previews" / "step-000004.png").is_file()
    names = {path.name for path in (folder / "model" / "decoders").iterdir()}
    assert {"hard", "soft", "joint"} <= names
    for name in names:
        found, expected = (
            DistributionDecoder.from_pretrained(run / "model" / "decoders" / name)
            for run in (folder, tmp_path / "alone")
        )
        for part in ("condition", "base"):
            for (key, value), other in zip(
                getattr(found, part).state_dict().items(), getattr(expected, part).state_dict().values(), strict=True
            ):
                torch.testing.assert_close(value, other, rtol=0, atol=2e-3, msg=key)
