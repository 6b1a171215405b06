"""Checkpoints of a training run: trained weights, their moving average, optimiser state, step."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_folder, read_json, read_tensors, write_json, write_tensors
from softdecode.training.optimizer import Optimizers


class MovingAverage:
    """Exponential moving average of a module's trained parameters, kept in float32."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in _trained(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the current weights; early on the average follows faster, so that it forgets the start."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for name, parameter in _trained(module).items():
            self.values[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's trained parameters with their average."""
        for name, parameter in _trained(module).items():
            parameter.copy_(self.values[name])


def save_checkpoint(output: Path, step: int, module: nn.Module, optimizer: Optimizers, average: MovingAverage) -> None:
    """Write `output/checkpoint`, replacing the one before only when whole."""
    with atomic_folder(output / "checkpoint") as folder:
        save_model(module, str(folder / "module.safetensors"))
        write_tensors(folder / "average.safetensors", average.values)
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
        write_json(folder / "state.json", {"step": step, "average_updates": average.updates})


def load_checkpoint(output: Path, module: nn.Module, optimizer: Optimizers, average: MovingAverage) -> int:
    """Restore a run from `output/checkpoint` and return the number of steps done.

    Raises:
        SoftDecodeError: there is no checkpoint, or it is of another model.
    """
    folder = output / "checkpoint"
    if not folder.is_dir():
        raise SoftDecodeError(f"{output} holds no checkpoint to resume from; start the run without resuming")
    state = read_json(folder / "state.json")
    try:
        load_model(module, str(folder / "module.safetensors"), strict=True)
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    except (RuntimeError, ValueError, KeyError, OSError, EOFError, SafetensorError, UnpicklingError) as error:
        reason = " ".join(str(error).split())
        raise SoftDecodeError(f"{folder} is damaged or of another model: {reason}") from error
    values, _ = read_tensors(folder / "average.safetensors")
    if values.keys() != average.values.keys():
        raise SoftDecodeError(f"{folder} is of another model: its moving average has other weights")
    average.values = {name: value.to(average.values[name].device) for name, value in values.items()}
    average.updates = state["average_updates"]
    return int(state["step"])


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
