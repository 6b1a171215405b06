"""The moving average of the trained weights: what a run is judged by and what it leaves behind."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with `requires_grad`, by name, each once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


class MovingAverage:
    """Exponential moving average of a module's trained parameters, kept in float32 and sharded as they are."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values: dict[str, Tensor] = {
            name: parameter.detach().to(torch.float32, copy=True)
            for name, parameter in trained_parameters(module).items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the current weights; early on the average follows faster, so that it forgets the start."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for name, parameter in trained_parameters(module).items():
            self.values[name].lerp_(parameter.detach().to(torch.float32), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's trained parameters with their average."""
        for name, parameter in trained_parameters(module).items():
            parameter.copy_(self.values[name])

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """Within the block the module has its averaged weights; afterwards its own again, to the bit."""
        own = {name: parameter.detach().clone() for name, parameter in trained_parameters(module).items()}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in trained_parameters(module).items():
                    parameter.copy_(own[name])
