"""Where weights are while they are not needed: two phases, or block by block."""

from collections.abc import Mapping
from typing import Literal

import torch
from accelerate import cpu_offload
from torch import nn

from softdecode.memory.blocks import blocks

Offload = Literal["none", "model", "sequential"]


class Phases:
    """Models that compute in turn: the one whose phase it is stays on the device, the others on the CPU.

    Args:
        models: by the names of their phases.
        device: where to compute.
    """

    def __init__(self, models: Mapping[str, nn.Module], device: torch.device) -> None:
        self._models = models
        self._device = device
        for module in models.values():
            module.to("cpu")

    def enter(self, phase: str) -> None:
        """Bring this phase's model to the device, once the others are away."""
        for name, module in self._models.items():
            if name != phase:
                module.to("cpu")
        release_cache(self._device)
        self._models[phase].to(self._device)


def offload_blocks(module: nn.Module, device: torch.device) -> None:
    """Keep a model's blocks in the CPU's memory and bring each layer to the device only while it computes.

    What is not in a block moves to the device now.
    """
    inside = {id(part) for block in blocks(module) for part in block.modules()}
    for block in blocks(module):
        cpu_offload(block, execution_device=device, offload_buffers=True)
    moved: dict[int, nn.Parameter] = {}  # so that tied weights stay one
    for part in module.modules():
        if id(part) in inside:
            continue
        for name, value in list(part.named_parameters(recurse=False)):
            if id(value) not in moved:
                moved[id(value)] = nn.Parameter(value.detach().to(device), requires_grad=value.requires_grad)
            setattr(part, name, moved[id(value)])
        for name, value in list(part.named_buffers(recurse=False)):
            setattr(part, name, value.to(device))


def release_cache(device: torch.device) -> None:
    """Give memory that the allocator holds, but nothing uses, back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
