"""Augmentation of small pictures on white ground, from one generator."""

import torch
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator, *, max_shift: int = 6) -> Tensor:
    """Mirror, shift on white ground and permute colour channels, each picture on its own draw.

    A permuted or mirrored emoji is as good a picture as any for learning to compress, and there are only about
    10,000 of the real ones. A quarter of the pictures keep their colours permuted, half are mirrored.

    Args:
        images: [B, 3, H, W] uint8.
        generator: source of all randomness.
        max_shift: largest shift in pixels, in each direction.

    Returns:
        [B, 3, H, W] uint8.
    """
    batch, channels, height, width = images.shape
    mirrored = torch.rand(batch, generator=generator) < 0.5
    recoloured = torch.rand(batch, generator=generator) < 0.25
    shifts = torch.randint(-max_shift, max_shift + 1, (batch, 2), generator=generator)
    # Most pictures stay where they are, as they are when the model is used.
    shifts[torch.rand(batch, generator=generator) < 0.5] = 0
    result = torch.full_like(images, 255)
    for i, image in enumerate(images):
        if mirrored[i]:
            image = image.flip(-1)
        if recoloured[i]:
            image = image[torch.randperm(channels, generator=generator)]
        down, right = shifts[i].tolist()
        result[i, :, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
            :, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
        ]
    return result
