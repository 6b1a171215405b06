"""Two processes against one: the same losses and weights, replicated or sharded, and checkpoints that fit both."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.files import read_json, read_tensors
from softdecode.training.checkpoint import latest_checkpoint

SCRIPT = Path(__file__).with_name("two_processes.py")
TINY = runpy.run_path(str(SCRIPT))
run, RUNS, STEPS = TINY["run"], TINY["RUNS"], TINY["STEPS"]
WHOLE = [name for name, changes in RUNS.items() if changes.get("steps", STEPS) == STEPS]


def launch(script, *arguments, processes=2):
    """torchrun, by this interpreter, on CPU and loopback alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [*command, str(script), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs on one process: plain, with muon, and one that stops half-way."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder / "adamw")
    run(folder / "muon", optimizer="muon")
    run(folder / "stopped", steps=3)
    return folder


@pytest.fixture(scope="module")
def together(alone, tmp_path_factory):
    """All runs of the script, on two processes; those to be resumed go on from the one process's checkpoint."""
    folder = tmp_path_factory.mktemp("together")
    for name in RUNS:
        if name.endswith("-resumed"):
            shutil.copytree(alone / "stopped", folder / name)
    result = launch(SCRIPT, folder)
    assert result.returncode == 0, result.stderr[-4000:]
    (folder / "out.txt").write_text(result.stdout)
    return folder


def log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines}


def reference(alone, name):
    return alone / ("muon" if "muon" in name else "adamw")


@pytest.mark.parametrize("name", WHOLE)
def test_the_losses_are_those_of_one_process(alone, together, name):
    expected, found = log(reference(alone, name)), log(together / name)
    assert found.keys() == expected.keys()
    # Muon orthogonalises in bfloat16, which rounds sharded matrices otherwise.
    tolerance = 5e-3 if "muon" in name else 1e-4
    for step, line in expected.items():
        for loss in ("loss", "l1", "grad_norm"):
            assert found[step][loss] == pytest.approx(line[loss], rel=tolerance), (step, loss)


@pytest.mark.parametrize("name", WHOLE)
def test_the_weights_are_those_of_one_process(alone, together, name):
    expected, _ = read_tensors(reference(alone, name) / "final.safetensors")
    found, _ = read_tensors(together / name / "final.safetensors")
    start = {key: value.clone() for key, value in TINY["Denoiser"]().state_dict().items()}
    assert found.keys() == expected.keys() == start.keys()
    for key, value in expected.items():
        moved = (value - start[key]).abs().max().item()
        # Adam turns the noise of a gradient that is next to nothing into whole steps: a few of them are allowed.
        torch.testing.assert_close(found[key], value, rtol=0, atol=0.25 * moved + 1e-6, msg=key)
    distance = sum((found[key] - value).square().sum() for key, value in expected.items())
    whole = sum((value - start[key]).square().sum() for key, value in expected.items())
    assert whole > 0
    assert distance / whole < (1e-2 if "muon" in name else 1e-4)
    assert read_json(together / name / "final.json")["loss"] == pytest.approx(
        read_json(reference(alone, name) / "final.json")["loss"], rel=1e-2 if "muon" in name else 1e-3
    )


@pytest.mark.parametrize("name", WHOLE)
def test_checkpoints_have_one_format(alone, together, name):
    expected, found = latest_checkpoint(reference(alone, name)), latest_checkpoint(together / name)
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    for path in expected.glob("*.safetensors"):
        one, two = (
            {key: (v.shape, v.dtype) for key, v in read_tensors(p)[0].items()} for p in (path, found / path.name)
        )
        assert one == two, path.name
    weights, _ = read_tensors(found / "trained.safetensors")
    assert not [key for key in weights if "vae" in key or "proj_mlp.weight" in key], "frozen weights are not in it"
    assert "adapter.weight" in weights


def test_one_process_goes_on_where_two_stopped(alone, together, tmp_path):
    folder = shutil.copytree(together / "fsdp2-stopped", tmp_path / "run")
    run(folder, resume=True)
    expected, found = log(alone / "adamw"), log(folder)
    assert [found[step]["resumed_at"] for step in (4, 5, 6)] == [3, 3, 3]
    for step, line in expected.items():
        assert found[step]["loss"] == pytest.approx(line["loss"], rel=1e-4)


def test_a_preview_changes_nothing_and_is_of_the_averaged_weights(alone, together, tmp_path):
    names = [path.name for path in sorted((together / "fsdp2" / "previews").iterdir())]
    assert names == ["step-000002.png", "step-000004.png", "step-000006.png"]
    run(tmp_path / "watched", preview_every=2)
    assert (tmp_path / "watched" / "previews" / "step-000006.png").is_file()
    expected, found = (read_tensors(f / "final.safetensors")[0] for f in (alone / "adamw", tmp_path / "watched"))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_only_one_process_writes_and_prints(together):
    assert (together / "out.txt").read_text().count("step 6/6") == len(WHOLE)
    for name in RUNS:
        lines = (together / name / "log.jsonl").read_text().splitlines()
        assert len(lines) == len(log(together / name)), "no line twice"


def test_each_process_has_its_place_in_the_data(together, tmp_path):
    states = read_json(latest_checkpoint(together / "data") / "state.json")["data"]
    assert states == [{"batches": 2, "rank": 0}, {"batches": 2, "rank": 1}]
    folder = shutil.copytree(together / "data", tmp_path / "run")
    with pytest.raises(SoftDecodeError, match="streamed to 2 processes; resume it with as many"):
        run(folder, resume=True, data_per_process=True)


FAILING = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import two_processes as tiny
rank = tiny.connect(torch.device("cpu")).process_index
class Failing(tiny.Denoiser):
    def batch(self, indices, generators):
        if rank == 1 and self.batches == 2:
            raise RuntimeError("the second process fails")
        return super().batch(indices, generators)
tiny.Denoiser = Failing
tiny.run(Path(sys.argv[2]))
"""


def test_a_process_that_fails_ends_the_others_and_the_run_can_be_resumed(alone, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    result = launch(tmp_path / "failing.py", SCRIPT.parent, tmp_path / "run")
    assert result.returncode != 0
    assert "the second process fails" in result.stderr
    assert set(log(tmp_path / "run")) == {1, 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"gradient_accumulation": 5}, "must be a multiple of 5"), ({"trackers": ("nonsense",)}, "unknown tracker")],
)
def test_what_cannot_be_is_refused(tmp_path, changes, words):
    with pytest.raises(SoftDecodeError, match=words):
        run(tmp_path, **changes)
