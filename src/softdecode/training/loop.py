"""The training loop: moving average, checkpoints that resume exactly, a JSONL log."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.files import write_json
from softdecode.provenance import provenance
from softdecode.seeds import derive_seed, generator_for
from softdecode.training.checkpoint import MovingAverage, load_checkpoint, save_checkpoint
from softdecode.training.config import LoopConfig
from softdecode.training.optimizer import Optimizers, build_optimizers


class Task(nn.Module):
    """One thing to train: its parameters, its data and its loss.

    Everything random in a step comes from the generator that the step is given, so that a resumed run repeats the
    numbers of an uninterrupted one.
    """

    samples: int
    """Number of samples in the training data."""

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The training batch of these sample indices [B] int64, augmented."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Scalar losses by name; `loss` is what is minimised, the rest is logged."""
        raise NotImplementedError

    def compile_blocks(self) -> None:
        """Compile the repeated blocks in place, where the task has any; called once, if the config asks for it."""

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass instead of keeping them, where the task's model can do so."""
        raise SoftDecodeError("this model cannot recompute its activations; train without checkpoint_activations")

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside transformer blocks, which the optimiser muon takes; none where there are no blocks."""
        return []

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Work between optimiser steps that is no gradient step."""


def sample_order(samples: int, batch_size: int, seed: int, start: int, stop: int) -> Iterator[Tensor]:
    """Sample indices [batch_size] of steps start..stop-1, from endless shuffled epochs that the seed alone decides."""
    epoch, order = -1, torch.empty(0, dtype=torch.int64)
    for step in range(start, stop):
        wanted = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            if position // samples != epoch:
                epoch = position // samples
                order = torch.randperm(samples, generator=generator_for("epoch", seed, epoch))
            wanted.append(order[position % samples])
        yield torch.stack(wanted)


def train(task: Task, config: LoopConfig, output: Path, *, job: dict[str, Any], resume: bool = False) -> None:
    """Train `task` and leave its moving-average weights in it.

    Args:
        task: what to train; parameters with `requires_grad` are trained.
        config: how.
        output: folder for `run.json`, `log.jsonl` and `checkpoint/`.
        job: the resolved settings of the whole job, stored in `run.json`.
        resume: go on from the checkpoint in `output`.

    Raises:
        SoftDecodeError: nothing to resume, a folder that already holds a run, or a loss that is not finite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    start = 0
    optimizer = build_optimizers(
        config.optimizer,
        task.parameters(),
        task.hidden_matrices(),
        learning_rate=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    average = MovingAverage(task, config.ema_decay)
    if resume:
        start = load_checkpoint(output, task, optimizer, average)
    elif (output / "checkpoint").exists():
        raise SoftDecodeError(f"{output} already holds a run; resume it, or choose another output folder")
    write_json(output / "run.json", {"job": job, "loop": asdict(config), "provenance": provenance()})
    task.train()
    if config.checkpoint_activations:
        task.checkpoint_activations()
    if config.compile:
        task.compile_blocks()
    began = time.perf_counter()
    with open(output / "log.jsonl", "a", encoding="utf-8") as log:
        for step, indices in enumerate(
            sample_order(task.samples, config.batch_size, config.seed, start, config.steps), start
        ):
            generator = generator_for("step", config.seed, step)
            torch.manual_seed(derive_seed("global", config.seed, step))  # for dropout inside library modules
            losses = _step(task, optimizer, config, step, indices, generator)
            average.update(task)
            task.after_step(step, generator)
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                seconds = time.perf_counter() - began
                rate = (step + 1 - start) * config.batch_size / seconds
                record = {"samples_per_second": round(rate, 2), **losses}
                print(
                    json.dumps({"step": step + 1, "resumed_at": start, "seconds": round(seconds, 1), **record}),
                    file=log,
                    flush=True,
                )
                shown = " ".join(f"{name} {value:.4g}" for name, value in record.items())
                print(f"step {step + 1}/{config.steps} {shown}", flush=True)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                save_checkpoint(output, step + 1, task, optimizer, average)
    average.copy_to(task)
    task.eval()


def _step(
    task: Task,
    optimizer: Optimizers,
    config: LoopConfig,
    step: int,
    indices: Tensor,
    generator: torch.Generator,
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = config.rate_at(step)
    device = next(task.parameters()).device
    batch = {name: value.to(device) for name, value in task.batch(indices, generator).items()}
    with torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext():
        losses = task(batch, step)
    optimizer.zero_grad()
    losses["loss"].backward()
    norm = nn.utils.clip_grad_norm_([p for p in task.parameters() if p.requires_grad], config.max_grad_norm)
    values = {name: float(value.detach()) for name, value in losses.items()} | {"grad_norm": float(norm)}
    if not all(math.isfinite(value) for value in values.values()):
        raise SoftDecodeError(f"training diverged at step {step + 1}: {values}; samples {indices.tolist()}")
    optimizer.step()
    return values
