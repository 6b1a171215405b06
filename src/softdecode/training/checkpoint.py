"""Checkpoints of a training run: what it trains, the moving average, the optimisers' state, its place in the data.

The format is the same however the run is spread over processes: whole tensors by name, in safetensors files. Frozen
weights are not in it. Each checkpoint is a folder of its own that appears by a single renaming, and the ones before go
only then, so that whenever a process is killed a whole one is there.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_folder, check_fit, read_json, read_tensors, write_json, write_tensors
from softdecode.training.average import MovingAverage, trained_parameters
from softdecode.training.guard import LossGuard
from softdecode.training.optimizer import Optimizers
from softdecode.training.sharding import copy_whole, gathered
from softdecode.training.task import Task

_STATE = {"step", "average_updates", "loss_mean", "loss_count", "data"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What of a run its checkpoints hold."""

    task: Task
    optimizer: Optimizers
    average: MovingAverage
    guard: LossGuard

    def weights(self) -> dict[str, Tensor]:
        """Trained parameters, and what else training moves."""
        return {**trained_parameters(self.task), **self.task.moved_tensors()}


def latest_checkpoint(output: Path) -> Path | None:
    """The folder of the run's newest checkpoint."""
    return max((output / "checkpoint").glob("step-*"), default=None)


def save_checkpoint(output: Path, step: int, run: Run, accelerator: Accelerator) -> None:
    """Write `output/checkpoint/step-NNNNNNNN`, then remove the ones before. Every process takes part, one writes.

    Raises:
        SoftDecodeError: it cannot be written; the checkpoint before is still there.
    """
    main = accelerator.is_main_process
    weights = gathered(run.weights().items(), keep=main)
    average = gathered(run.average.values.items(), keep=main)
    moments = gathered(run.optimizer.named_state(trained_parameters(run.task)), keep=main)
    data = gather_object([run.task.data_state()])
    if not main:
        return
    older = list((output / "checkpoint").glob("step-*"))
    with atomic_folder(output / "checkpoint" / f"step-{step:08d}") as folder:
        write_tensors(folder / "trained.safetensors", weights)
        write_tensors(folder / "average.safetensors", average)
        write_tensors(folder / "optimizer.safetensors", moments)
        state = {"step": step, "average_updates": run.average.updates}
        state |= {"loss_mean": run.guard.mean, "loss_count": run.guard.count, "data": data}
        write_json(folder / "state.json", state)
    for folder in older + list((output / "checkpoint").glob(".step-*")):  # hidden: what a killed process left
        shutil.rmtree(folder, ignore_errors=True)


def load_checkpoint(output: Path, run: Run, accelerator: Accelerator) -> int:
    """Restore a run from its newest checkpoint and return the number of steps done.

    Raises:
        SoftDecodeError: there is none, it is damaged or of another model, or its data was shared out otherwise.
    """
    folder = latest_checkpoint(output)
    if folder is None:
        raise SoftDecodeError(f"{output} holds no checkpoint to resume from; start the run without resuming")
    state = read_json(folder / "state.json")
    if not isinstance(state, dict) or state.keys() != _STATE:
        raise SoftDecodeError(f"{folder / 'state.json'} is damaged: it must have {', '.join(sorted(_STATE))}")
    for name, targets in (("trained", run.weights()), ("average", run.average.values)):
        values, _ = read_tensors(folder / f"{name}.safetensors")
        check_fit(
            {key: value.shape for key, value in targets.items()},
            {key: value.shape for key, value in values.items()},
            f"{folder / name}.safetensors, of another model:",
        )
        for key, target in targets.items():
            copy_whole(target, values[key])
    moments, _ = read_tensors(folder / "optimizer.safetensors")
    run.optimizer.load_named_state(moments, trained_parameters(run.task), str(folder / "optimizer.safetensors"))
    run.average.updates = int(state["average_updates"])
    run.guard.mean, run.guard.count = float(state["loss_mean"]), int(state["loss_count"])
    run.task.load_data_state(_own_data(state["data"], accelerator, folder))
    return int(state["step"])


def _own_data(states: list[dict[str, Any]], accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """This process's place in its data."""
    if not any(states):  # the sample indices say it all, and they do not depend on the processes
        return {}
    if len(states) != accelerator.num_processes:
        raise SoftDecodeError(
            f"{folder} is of a run whose data is streamed to {len(states)} processes; resume it with as many, "
            f"not with {accelerator.num_processes}"
        )
    return states[accelerator.process_index]
