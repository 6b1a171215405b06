"""Small sets of pictures, held in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from softdecode.data.sources.corrupt import CorruptPictures
from softdecode.data.sources.picture import Sample
from softdecode.data.sources.source import NumberedSource, PictureSource
from softdecode.data.spacing import evenly_spaced
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

    def spread(self, count: int) -> "Pictures":
        """`count` of them, evenly spaced; all where there are fewer."""
        places = evenly_spaced(len(self), count)
        return Pictures(
            images=self.images[places],
            keys=tuple(self.keys[place] for place in places),
            captions=tuple(self.captions[place] for place in places),
            digest=self.digest,
        )


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
    return _held(samples)


def some_pictures(source: PictureSource, corrupt: CorruptPictures, count: int) -> Pictures:
    """At most `count` pictures to learn statistics from: evenly spaced where any record can be read at once, since a
    folder's first pictures are often all of one class; the first ones of tars and streamed sets.

    Raises:
        SoftDecodeError: too many cannot be used, or none can.
    """
    if isinstance(source, NumberedSource) and len(source) > count:
        samples = list(source.samples_at(evenly_spaced(len(source), count), corrupt))
    else:
        samples = list(islice(source.samples(corrupt), count))
    if not samples:
        raise SoftDecodeError(f"none of the source's pictures can be used; {corrupt.path} lists them with reasons")
    return _held(samples)


def _held(samples: Sequence[Sample]) -> Pictures:
    images = torch.stack([sample.image for sample in samples])
    return Pictures(
        images=images,
        keys=tuple(sample.key for sample in samples),
        captions=tuple(sample.caption for sample in samples),
        digest=tensor_sha256(images),
    )
