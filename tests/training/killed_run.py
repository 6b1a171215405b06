"""A tiny run that test_kill.py kills and resumes: `python killed_run.py FOLDER [--resume]`."""

import sys
from pathlib import Path

import torch
from torch import nn

from softdecode.training.checkpoint import latest_checkpoint
from softdecode.training.config import LoopConfig
from softdecode.training.loop import train
from softdecode.training.task import Task

SAMPLES = 50


class Fit(Task):
    """A network with dropout on noisy points, large enough that writing a checkpoint takes its time."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(8, 700), nn.Dropout(0.2), nn.Tanh(), nn.Linear(700, 1))
        self.register_buffer("visits", torch.zeros(SAMPLES))
        self.points = torch.randn(SAMPLES, 8, generator=torch.Generator().manual_seed(1))
        self.samples = SAMPLES

    def moved_tensors(self):
        return {"visits": self.visits}

    def batch(self, indices, generators):
        noise = torch.stack([torch.randn(8, generator=generator) for generator in generators])
        return {"x": self.points[indices] + 0.1 * noise, "y": self.points[indices].sum(-1, keepdim=True)}

    def forward(self, batch, step):
        return {"loss": (self.network(batch["x"]) - batch["y"]).square().mean() + 1e-3 * self.visits.sum()}

    def after_step(self, step, generator):
        self.visits += 0.01 * torch.rand(SAMPLES, generator=generator)


def run(folder):
    config = LoopConfig(steps=150, batch_size=6, gradient_accumulation=2, learning_rate=0.01, warmup_steps=5,
                        precision="fp32", log_every=1, checkpoint_every=1)  # fmt: skip
    train(Fit(), config, folder, job={}, resume=latest_checkpoint(folder) is not None)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
