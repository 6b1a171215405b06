"""The training loop, on one process or many: data order, steps, moving average, checkpoints that resume exactly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.seeds import generator_for
from softdecode.training.average import MovingAverage
from softdecode.training.checkpoint import Run, latest_checkpoint, load_checkpoint, save_checkpoint
from softdecode.training.config import LoopConfig
from softdecode.training.gradients import compute_gradients
from softdecode.training.guard import LossGuard
from softdecode.training.journal import Journal
from softdecode.training.optimizer import build_optimizers
from softdecode.training.parallel import Alone, parallelise
from softdecode.training.processes import build_accelerator
from softdecode.training.task import Task


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


def train(
    task: Task,
    config: LoopConfig,
    output: Path,
    *,
    job: dict[str, Any],
    resume: bool = False,
    device: torch.device | None = None,
) -> None:
    """Train `task` and leave its moving-average weights in it.

    Where several processes were launched, each calls this with the same arguments; only the main one writes. After a
    sharded run only the main process has the weights, on the CPU.

    Args:
        task: what to train; parameters with `requires_grad` are trained.
        config: how.
        output: folder for `run.json`, `log.jsonl`, `checkpoint/` and `previews/`.
        job: the resolved settings of the whole job, stored in `run.json`.
        resume: go on from the checkpoint in `output`.
        device: where to; the task's own where None. Of several processes each takes its own CUDA device.

    Raises:
        SoftDecodeError: nothing to resume, a folder that already holds a run, a batch that cannot be divided, or a loss
            that is not finite or explodes.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    placed = next(task.parameters()).device
    accelerator = build_accelerator(config, torch.device(placed.type) if device is None else device, output)
    if not resume and latest_checkpoint(output) is not None:
        raise SoftDecodeError(f"{output} already holds a run; resume it, or choose another output folder")
    parallel = _prepare(task, config, accelerator, placed if device is None else device)
    optimizer = build_optimizers(
        config.optimizer,
        task.parameters(),
        task.hidden_matrices(),
        learning_rate=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    run = Run(task=task, optimizer=optimizer, average=MovingAverage(task, config.ema_decay), guard=LossGuard(config))
    start = load_checkpoint(output, run, accelerator) if resume else 0
    journal = Journal(accelerator, config, output, job, start)
    if task.endless:
        order = (torch.arange(config.batch_size) for _ in range(start, config.steps))
    else:
        order = sample_order(task.samples, config.batch_size, config.seed, start, config.steps)
    for step, indices in enumerate(order, start):
        for group in optimizer.param_groups:
            group["lr"] = config.rate_at(step)
        optimizer.zero_grad()
        losses = compute_gradients(parallel, config, accelerator, step, indices)
        run.guard.check(step, losses, indices, task)
        optimizer.step()
        run.average.update(task)
        task.after_step(step, generator_for("step", config.seed, step))
        done, last = step + 1, step + 1 == config.steps
        if done % config.log_every == 0 or last:
            journal.record(done, losses)
        if done % config.checkpoint_every == 0 or last:
            save_checkpoint(output, done, run, accelerator)
        if config.preview_every and (done % config.preview_every == 0 or last):
            _preview(done, parallel, run.average, journal, main=accelerator.is_main_process)
    journal.close()
    run.average.copy_to(task)
    parallel.dissolve()
    task.eval()


def _prepare(task: Task, config: LoopConfig, accelerator: Accelerator, device: torch.device) -> Alone:
    """Blocks are compiled before they are sharded: in that order torch keeps the hooks of sharding out of the graph."""
    task.train()
    if config.checkpoint_activations:
        task.checkpoint_activations()
    if config.compile:
        task.compile_blocks()
    return parallelise(task, config, accelerator, device)


@torch.no_grad()
def _preview(step: int, parallel: Alone, average: MovingAverage, journal: Journal, *, main: bool) -> None:
    """Show what the averaged weights have learnt; the run goes on as if it had not been looked at."""
    task = parallel.task
    with average.in_place_of(task), parallel.previews(main) as wanted:
        task.eval()
        if wanted:
            journal.show(step, task.preview(step))
        task.train()
