"""Augmentation of small pictures on white ground, and of their features, each sample from its own generator."""

from collections.abc import Sequence

import torch
from torch import Tensor


def augment(images: Tensor, generators: Sequence[torch.Generator], *, max_shift: int = 6) -> Tensor:
    """Mirror, shift on white ground and permute colour channels, each picture on its own draw.

    A permuted or mirrored emoji is as good a picture as any for learning to compress, and there are only about
    10,000 of the real ones. A quarter of the pictures keep their colours permuted, half are mirrored.

    Args:
        images: [B, 3, H, W] uint8.
        generators: B sources of randomness, one for each picture.
        max_shift: largest shift in pixels, in each direction.

    Returns:
        [B, 3, H, W] uint8.
    """
    result = torch.full_like(images, 255)
    for place, (image, generator) in enumerate(zip(images, generators, strict=True)):
        result[place] = _augmented(image, generator, max_shift)
    return result


def _augmented(image: Tensor, generator: torch.Generator, max_shift: int) -> Tensor:
    """One picture [3, H, W] changed."""
    mirrored, recoloured, moved = (torch.rand(3, generator=generator) < torch.tensor([0.5, 0.25, 0.5])).tolist()
    if mirrored:
        image = image.flip(-1)
    if recoloured:
        image = image[torch.randperm(len(image), generator=generator)]
    if not moved:  # most pictures stay where they are, as they are when the model is used
        return image
    down, right = torch.randint(-max_shift, max_shift + 1, (2,), generator=generator).tolist()
    height, width = image.shape[1:]
    result = torch.full_like(image, 255)
    result[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
        :, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return result


def splice_masks(grid: tuple[int, int], share: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Masks of token grids: what of a picture's features is to come from another picture.

    A decoder's work is local, and a picture spliced of two along a row or a column of tokens is as good for learning
    it as a whole one; it cannot be recalled as a whole (CutMix, Yun et al. 2019, on features).

    Args:
        grid: token grid (h, w), at least 2 × 2.
        share: of the pictures that are spliced, in [0, 1].
        generators: B sources of randomness, one for each picture.

    Returns:
        [B, h, w] bool: True below (or right of) a random cut in the spliced pictures, False elsewhere.
    """
    rows, columns = grid
    spliced, across, place = torch.stack([torch.rand(3, generator=generator) for generator in generators]).unbind(1)
    below = torch.arange(rows) > (place * (rows - 1)).long()[:, None]
    right = torch.arange(columns) > (place * (columns - 1)).long()[:, None]
    mask = torch.where((across < 0.5)[:, None, None], below[:, :, None], right[:, None, :])
    return mask & (spliced < share)[:, None, None]
