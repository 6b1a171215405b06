"""Small sets of pictures, held in memory."""

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from softdecode.data.sources.corrupt import CorruptPictures
from softdecode.data.sources.source import PictureSource
from softdecode.errors import SoftDecodeError
from softdecode.files import tensor_sha256


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures in the order of their source.

    Attributes:
        images: [M, 3, H, W] uint8.
        keys: M names.
        captions: M captions; None where the source has none.
        digest: SHA-256 of the pictures.
    """

    images: Tensor
    keys: tuple[str, ...]
    captions: tuple[str | None, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.keys)


def load_pictures(source: PictureSource, corrupt: CorruptPictures, limit: int | None = None) -> Pictures:
    """Read the first `limit` usable pictures of a source, or all of them.

    Raises:
        SoftDecodeError: too many cannot be used, fewer than `limit` can, or none can.
    """
    if limit is not None and limit < 1:
        raise SoftDecodeError(f"{limit} pictures were asked for; expected 1 or more")
    samples = list(islice(source.samples(corrupt), limit))
    if not samples or len(samples) < (limit or 0):
        wanted = "at least one" if limit is None else str(limit)
        listed = f"; {corrupt.path} lists the others with reasons" if corrupt.skipped else ""
        raise SoftDecodeError(f"the source has {len(samples)} usable pictures, {wanted} were asked for{listed}")
    images = torch.stack([sample.image for sample in samples])
    return Pictures(
        images=images,
        keys=tuple(sample.key for sample in samples),
        captions=tuple(sample.caption for sample in samples),
        digest=tensor_sha256(images),
    )
