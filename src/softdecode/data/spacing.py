"""A few of many, by a fixed rule."""

import torch


def evenly_spaced(total: int, wanted: int) -> list[int]:
    """Places of `wanted` of `total` things, evenly spaced from the first to the last; of all, where there are fewer."""
    # float64: float32 does not know all whole numbers beyond 2^24.
    return torch.linspace(0, total - 1, min(wanted, total), dtype=torch.float64).round().long().tolist()
