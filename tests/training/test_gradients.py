"""One step's gradients: micro-batches give what the whole batch gives, and what cannot be divided is refused."""

import json

import pytest
import torch
from torch import nn

from softdecode.errors import SoftDecodeError
from softdecode.files import read_tensors
from softdecode.training.checkpoint import latest_checkpoint
from softdecode.training.config import LoopConfig
from softdecode.training.loop import train
from softdecode.training.task import Task


class Fit(Task):
    """A linear fit of noisy points, whose loss is a mean over samples."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.points = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
        self.samples = 20
        self.sizes = []

    def batch(self, indices, generators):
        self.sizes.append(len(indices))
        noise = torch.stack([torch.randn(3, generator=generator) for generator in generators])
        return {"x": self.points[indices] + noise, "y": self.points[indices].sum(-1, keepdim=True)}

    def forward(self, batch, step):
        error = self.network(batch["x"]) - batch["y"]
        return {"loss": error.square().mean(), "l1": error.abs().mean()}


def run(folder, task=None, **changes):
    usual = {
        "steps": 3,
        "batch_size": 12,
        "warmup_steps": 0,
        "learning_rate": 0.05,
        "precision": "fp32",
        "log_every": 1,
    }
    task = task or Fit()
    train(task, LoopConfig(**{**usual, **changes}), folder, job={})
    return task


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [[line[name] for name in ("loss", "l1", "grad_norm")] for line in lines]


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_micro_batches_add_up_to_the_batch(tmp_path, parts):
    run(tmp_path / "whole", max_grad_norm=0.1)
    task = run(tmp_path / "parts", max_grad_norm=0.1, gradient_accumulation=parts)
    assert task.sizes == [12 // parts] * 3 * parts
    for found, expected in zip(losses(tmp_path / "parts"), losses(tmp_path / "whole"), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    # The gradients that were used: Adam's first moments.
    found, expected = (
        read_tensors(latest_checkpoint(tmp_path / name) / "optimizer.safetensors")[0] for name in ("parts", "whole")
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    with pytest.raises(SoftDecodeError, match="batch of 12 cannot be divided among 1 processes with 5 micro-batches"):
        run(tmp_path, gradient_accumulation=5)


def test_a_task_that_needs_whole_batches_says_so(tmp_path):
    task = Fit()
    task.whole_batches = True
    with pytest.raises(SoftDecodeError, match="needs whole batches"):
        run(tmp_path, task, gradient_accumulation=2)
    run(tmp_path, task)


def test_activations_are_computed_again_only_where_a_task_can(tmp_path):
    with pytest.raises(SoftDecodeError, match="Fit has no blocks"):
        run(tmp_path, checkpoint_activations=True)
