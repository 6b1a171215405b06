"""Augmentation of training pictures, of their tokens and of their features, each sample from its own generator."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError

Augmentation = Literal["none", "mirror", "emoji"]
_NEIGHBOURS = 8  # of a code, that a corrupted token is drawn from


def augmented(images: Tensor, kind: Augmentation, generators: Sequence[torch.Generator]) -> Tensor:
    """Pictures [B, 3, H, W] uint8 as they are; mirrored at random, for photographs; or as emoji, see `augment`.

    Raises:
        SoftDecodeError: an unknown kind.
    """
    if kind == "none":
        return images
    if kind == "emoji":
        return augment(images, generators)
    if kind != "mirror":
        raise SoftDecodeError(f"unknown augmentation {kind!r}; expected none, mirror or emoji")
    mirrored = torch.stack([torch.rand((), generator=generator) < 0.5 for generator in generators])
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


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


def corrupt_tokens(tokens: Tensor, codebook: Tensor, share: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Swap a share of the tokens for likely neighbours, as a VLM errs (spec section 2).

    Args:
        tokens: [B, h, w] int64.
        codebook: [V, d], L2-normalised rows.
        share: of the tokens of each picture, in [0, 1].
        generators: B sources of randomness, one for each picture.

    Returns:
        [B, h, w] int64: a corrupted token is one of the eight codes nearest to the true one, each as likely.
    """
    if share == 0:
        return tokens
    shape = tuple(tokens.shape[1:])
    draws = torch.stack([torch.rand(shape, generator=generator) for generator in generators])
    count = min(_NEIGHBOURS, len(codebook) - 1)
    picks = torch.stack([torch.randint(count, shape, generator=generator) for generator in generators])
    affected = (draws < share).to(tokens.device)
    table = codebook.to(tokens.device)
    true = tokens[affected]
    similar = table[true] @ table.T
    similar.scatter_(1, true[:, None], -torch.inf)  # never the code itself
    neighbours = similar.topk(count, dim=-1).indices
    swapped = tokens.clone()
    swapped[affected] = neighbours.gather(1, picks.to(tokens.device)[affected][:, None])[:, 0]
    return swapped
