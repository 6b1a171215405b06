"""Augmentation of small pictures on white ground, and of their features, each from one generator."""

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


def splice_masks(count: int, grid: tuple[int, int], share: float, generator: torch.Generator) -> Tensor:
    """Masks of token grids: what of a picture's features is to come from another picture.

    A decoder's work is local, and a picture spliced of two along a row or a column of tokens is as good for learning
    it as a whole one; it cannot be recalled as a whole (CutMix, Yun et al. 2019, on features).

    Args:
        count: pictures B.
        grid: token grid (h, w), at least 2 × 2.
        share: of the pictures that are spliced, in [0, 1].
        generator: source of all randomness.

    Returns:
        [B, h, w] bool: True below (or right of) a random cut in the spliced pictures, False elsewhere.
    """
    rows, columns = grid
    spliced = torch.rand(count, generator=generator) < share
    across = torch.rand(count, generator=generator) < 0.5
    place = torch.rand(count, generator=generator)
    below = torch.arange(rows) > (place * (rows - 1)).long()[:, None]
    right = torch.arange(columns) > (place * (columns - 1)).long()[:, None]
    mask = torch.where(across[:, None, None], below[:, :, None], right[:, None, :])
    return mask & spliced[:, None, None]
