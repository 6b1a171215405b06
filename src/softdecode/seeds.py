"""Random numbers that do not depend on batch size, order or device: one CPU generator for each image."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from integers and names, by SHA-256: distinct purposes get independent streams."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`."""
    return torch.Generator("cpu").manual_seed(derive_seed(*parts))


def image_noise(seeds: Sequence[int], shape: Sequence[int], purpose: str) -> Tensor:
    """Standard normal noise [len(seeds), *shape], float32 on the CPU, each image from its own seed alone."""
    return torch.stack([torch.randn(*shape, generator=generator_for(purpose, seed)) for seed in seeds])
