"""What a run tells trackers, and its previews."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from softdecode.errors import SoftDecodeError
from softdecode.training.config import LoopConfig
from softdecode.training.loop import train
from softdecode.training.task import Task


class Constant(Task):
    """One number that is learnt; its preview is a picture of that brightness."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))
        self.samples = 4
        self.seen = []

    def batch(self, indices, generators):
        return {"target": torch.full((len(indices),), 100.0)}

    def forward(self, batch, step):
        return {"loss": (self.level - batch["target"]).abs().mean()}

    def preview(self, step):
        assert not self.training
        self.seen.append((step, self.level.item()))
        return Image.new("L", (4, 3), color=round(self.level.item()))


def run(folder, **changes):
    usual = {"steps": 5, "batch_size": 2, "warmup_steps": 0, "learning_rate": 10.0, "precision": "fp32",
             "schedule": "constant", "weight_decay": 0.0, "ema_decay": 0.9, "log_every": 1}  # fmt: skip
    task = Constant()
    train(task, LoopConfig(**{**usual, **changes}), folder, job={})
    return task


def test_previews_are_of_the_averaged_weights(tmp_path):
    task = run(tmp_path, preview_every=2)
    assert [step for step, _ in task.seen] == [2, 4, 5]
    assert task.seen[-1][1] == task.level.item(), "the average is what a run leaves"
    # Adam moves by the rate at every step; the average by its own rule.
    average = 0.0
    for update, value in enumerate((10.0, 20.0), 1):
        average += (1 - min(0.9, update / (update + 10))) * (value - average)
    assert task.seen[0][1] == pytest.approx(average, rel=1e-4)
    pictures = sorted((tmp_path / "previews").iterdir())
    assert [path.name for path in pictures] == [f"step-00000{step}.png" for step in (2, 4, 5)]
    assert np.asarray(Image.open(pictures[0])).tolist() == [[round(average)] * 4] * 3


def test_looking_changes_nothing(tmp_path):
    assert run(tmp_path / "a", preview_every=1).level.item() == run(tmp_path / "b").level.item()


# tensorboard imports what protobuf and torch have deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_tensorboard_is_told_losses_and_previews(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, trackers=("tensorboard",), preview_every=5)
    (folder,) = {path.parent for path in (tmp_path / "trackers" / "softdecode").glob("events*")}
    events = EventAccumulator(str(folder)).Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3, 4, 5]
    assert [event.value for event in losses] == pytest.approx([100, 90, 80, 70, 60], rel=1e-3)
    assert [event.step for event in events.Images("preview")] == [5]


def test_trackers_that_are_not_there_are_named(tmp_path, monkeypatch):
    with pytest.raises(SoftDecodeError, match=r"unknown tracker 'chalk'; expected .*tensorboard"):
        run(tmp_path, trackers=("chalk",))
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    with pytest.raises(SoftDecodeError, match="tensorboard is not installed"):
        run(tmp_path, trackers=("tensorboard",))
    assert not list(tmp_path.iterdir())
