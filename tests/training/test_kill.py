"""A run that is killed, at whatever moment, goes on to the bit; also where the disk is full."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from softdecode.training.checkpoint import latest_checkpoint

SCRIPT = Path(__file__).with_name("killed_run.py")
run = runpy.run_path(str(SCRIPT))["run"]


def losses(folder):
    """Every line's loss by step; a step that was repeated has several."""
    found = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        found.setdefault(record["step"], []).append((record["loss"], record["grad_norm"]))
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    run(folder)
    return folder


def start(folder):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def half_written(folder):
    """Whether a checkpoint is being written at this moment."""
    try:
        return any((folder / "checkpoint").glob(".step-*/*.safetensors"))
    except FileNotFoundError:  # it was just finished
        return False


def kill_after(folder, steps, delay, *, writing=False):
    """SIGKILL a moment after so many more steps are logged; with `writing`, while a checkpoint is being written."""
    before = len((folder / "log.jsonl").read_text().splitlines()) if (folder / "log.jsonl").exists() else 0
    process = start(folder)
    try:
        for _ in range(120_000):
            assert process.poll() is None, process.stderr.read().decode()[-2000:]
            lines = (folder / "log.jsonl").read_bytes().count(b"\n") if (folder / "log.jsonl").exists() else 0
            if lines >= before + steps and (not writing or half_written(folder)):
                break
            time.sleep(0.0005)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_a_killed_run_goes_on_to_the_bit(straight, tmp_path):
    """Twice killed: at a random moment, and in the middle of writing a checkpoint."""
    chance = random.Random()  # another moment each time: whichever it is, nothing may change
    for writing in (False, True):
        steps, delay = chance.randint(3, 30), 0 if writing else chance.uniform(0, 0.02)
        kill_after(tmp_path, steps, delay, writing=writing)
        assert latest_checkpoint(tmp_path) is not None, (steps, delay)
        with open(tmp_path / "log.jsonl", "a") as log:
            log.write('{"step": 9')  # as if it had been killed in the middle of a line
    run(tmp_path)
    expected, found = losses(straight), losses(tmp_path)
    assert len(expected) == 150
    assert found.keys() == expected.keys()
    for step, values in found.items():
        assert set(values) == set(expected[step]), f"step {step} differs"
    last = [latest_checkpoint(folder) for folder in (straight, tmp_path)]
    for name in ("trained.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"):
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes(), name
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["step-00000150"], "no leavings"


LIMITED = """
import resource, runpy, sys
from pathlib import Path
from softdecode.errors import SoftDecodeError
script = runpy.run_path(sys.argv[1])
Fit = script["Fit"]
usual = Fit.after_step
def after_step(self, step, generator):
    if step == 5:  # from now on files may have 10,000 bytes: state.json fits, the weights do not
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    usual(self, step, generator)
Fit.after_step = after_step
try:
    script["run"](Path(sys.argv[2]))
except SoftDecodeError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs file-size limits")
def test_what_cannot_be_written_is_named_and_the_checkpoint_before_stays(straight, tmp_path):
    """The operating system itself refuses to write."""
    folder = tmp_path / "run"
    (tmp_path / "limited.py").write_text(LIMITED)
    command = [sys.executable, str(tmp_path / "limited.py"), str(SCRIPT), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 2, ended.stderr[-2000:]
    message = ended.stdout.splitlines()[-1]
    assert "cannot write" in message
    assert "unchanged" in message
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["step-00000005"]
    run(folder)
    expected, found = losses(straight), losses(folder)
    assert found.keys() == expected.keys()
    assert all(set(values) == set(expected[step]) for step, values in found.items())
