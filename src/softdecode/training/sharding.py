"""Tensors of which each process holds a part: to the whole, and back to the parts."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, sharded or not. Of a sharded one every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Whole copies on the CPU, one tensor at a time; every process takes part, those that do not `keep` get nothing."""
    result = {}
    for name, tensor in tensors:
        full = whole(tensor.detach())
        if keep:
            result[name] = full.to("cpu", copy=True)
    return result


def parted_like(reference: Tensor, full: Tensor) -> Tensor:
    """This process's part of `full`, sharded as `reference` is and on its device; no process waits for another."""
    full = full.to(reference.device)
    if not isinstance(reference, DTensor):
        return full
    return distribute_tensor(full, reference.device_mesh, reference.placements, src_data_rank=None)


@torch.no_grad()
def copy_whole(target: Tensor, full: Tensor) -> None:
    """Copy a whole tensor into a sharded one, or one that is not."""
    target.copy_(parted_like(target, full))
