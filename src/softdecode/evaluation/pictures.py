"""The pictures that an evaluation is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from softdecode.data.emoji import load_emoji

EMOJI_RESIZER = "none: pictures are 64 px as published (fluent: Lanczos from 256 px)"


class Pictures(Protocol):
    """Pictures in a fixed order, read a part at a time; a tensor [M, 3, H, W] uint8 is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Tensor:
        """The pictures of a slice (no step, within the length): [b, 3, H, W] uint8, on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationPictures:
    """Pictures to reconstruct, and what a result file says of them.

    Attributes:
        images: the originals.
        captions: one for each.
        description: plain JSON for the protocol: `reference` (what they are), `data_sha256`, `whole_split` (whether
            they are all there are), `resizer` and `crop` (how they got their size).
    """

    images: Pictures
    captions: Sequence[str]
    description: dict[str, object]


def emoji_test_pictures(folder: Path, limit: int | None = None) -> EvaluationPictures:
    """The emoji test split, or `limit` of its pictures, evenly spaced.

    Args:
        folder: of the emoji data.
        limit: at least 1; all where None.

    Raises:
        SoftDecodeError: the data cannot be read or prepared.
    """
    data = load_emoji(folder).split("test")
    count = min(limit or len(data), len(data))
    places = torch.linspace(0, len(data) - 1, count).round().long()
    return EvaluationPictures(
        images=data.images[places],
        captions=[data.emoji[place].caption for place in places.tolist()],
        description={
            "reference": "the originals, emoji test split (whole families held out)",
            "data_sha256": data.digest,
            "whole_split": count == len(data),
            "resizer": EMOJI_RESIZER,
            "crop": "none",
        },
    )
