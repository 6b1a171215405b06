"""Runs of a tiny transformer, which test_distributed.py starts on two processes and compares with one."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image
from torch import nn

from softdecode import flow
from softdecode.files import write_json, write_tensors
from softdecode.training.config import LoopConfig
from softdecode.training.decoder import TransformerConfig, build_base
from softdecode.training.loop import train
from softdecode.training.processes import connect
from softdecode.training.task import Task
from softdecode.training.vae import VaeConfig, build_vae

GRID, SAMPLES, STEPS = (4, 4), 11, 6


class Denoiser(Task):
    """A FLUX-style transformer on random latents, with an adapter, a frozen VAE, and a frozen weight in each block."""

    def __init__(self, data_per_process=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = build_vae(VaeConfig(channels=(8, 8), latent_channels=2, norm_groups=4), 16).requires_grad_(False)
            self.base = build_base(TransformerConfig(layers=2, heads=2, head_dim=16), vae)
            self.adapter = nn.Linear(3, 32)
        for block in self.blocks():
            block.proj_mlp.weight.requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        self.latents = torch.randn(SAMPLES, 16, 8, generator=generator)
        self.hints = torch.randn(SAMPLES, 16, 3, generator=generator)
        self.samples = SAMPLES
        self.data_per_process = data_per_process
        self.batches = 0

    def blocks(self):
        return list(self.base.transformer.single_transformer_blocks)

    def checkpoint_activations(self):
        self.base.transformer.enable_gradient_checkpointing()

    def hidden_matrices(self):
        return [p for block in self.blocks() for p in block.parameters() if p.ndim == 2]

    def batch(self, indices, generators):
        self.batches += 1
        noise = torch.stack([torch.randn(16, 8, generator=generator) for generator in generators])
        times = torch.stack([torch.rand((), generator=generator) for generator in generators])
        return {"latents": self.latents[indices], "hints": self.hints[indices], "noise": noise, "times": times}

    def forward(self, batch, step):
        noisy = flow.interpolate(batch["latents"], batch["noise"], batch["times"])
        found = self.base.velocity(noisy, batch["times"], self.adapter(batch["hints"]).float(), GRID)
        error = found.float() - flow.velocity_target(batch["latents"], batch["noise"])
        return {"loss": error.square().mean(), "l1": error.abs().mean()}

    def data_state(self):
        rank = PartialState().process_index
        return {"batches": self.batches, "rank": rank} if self.data_per_process else {}

    def load_data_state(self, state):
        if self.data_per_process:
            assert state["rank"] == PartialState().process_index
            self.batches = state["batches"]

    def preview(self, step):
        batch = self.batch(torch.arange(2), [torch.Generator().manual_seed(place) for place in range(2)])
        level = float(self(batch, step)["loss"])
        picture = Image.new("L", (2, 2), color=min(int(50 * level), 255))
        picture.info["level"] = str(level)
        return picture


# The runs: changed settings, steps done before (by the folder's checkpoint), and whether the data has a state.
RUNS = {
    "ddp": {},
    "ddp-accumulated": {"gradient_accumulation": 3},
    "ddp-muon": {"optimizer": "muon"},
    "fsdp2": {"parallel": "fsdp2", "preview_every": 2},
    "fsdp2-recomputed": {"parallel": "fsdp2", "gradient_accumulation": 3, "checkpoint_activations": True},
    "fsdp2-muon": {"parallel": "fsdp2", "optimizer": "muon"},
    "fsdp2-resumed": {"parallel": "fsdp2"},
    "ddp-resumed": {},
    "fsdp2-stopped": {"parallel": "fsdp2", "steps": 3, "schedule": "constant"},
    "data": {"steps": 2},
}


def settings(**changes):
    usual = {
        "steps": STEPS,
        "batch_size": 12,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "precision": "fp32",
        "ema_decay": 0.7,
        "max_grad_norm": 0.5,
        "log_every": 1,
        "checkpoint_every": 3,
        "schedule": "constant",
    }
    return LoopConfig(**{**usual, **changes})


def run(folder, *, resume=False, data_per_process=False, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    task = Denoiser(data_per_process)
    train(task, settings(**changes), folder, job={}, resume=resume, device=torch.device("cpu"))
    if connect(torch.device("cpu")).is_main_process:
        write_tensors(folder / "final.safetensors", task.state_dict())
        with torch.no_grad():  # the blocks are plain modules again
            batch = task.batch(torch.arange(2), [torch.Generator().manual_seed(place) for place in range(2)])
            write_json(folder / "final.json", {"loss": task(batch, 0)["loss"].item()})
    return task


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, changes in RUNS.items():
        run(folder / name, resume=name.endswith("-resumed"), data_per_process=name == "data", **changes)
    connect(torch.device("cpu")).wait_for_everyone()
