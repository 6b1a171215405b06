"""Training pictures in a fixed order, read part by part: from memory, or from a source as they are asked for."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from softdecode.data.sources.corrupt import CorruptPictures
from softdecode.data.sources.picture import Sample
from softdecode.data.sources.source import PictureSource
from softdecode.errors import SoftDecodeError
from softdecode.files import tensor_sha256


@dataclass(frozen=True, kw_only=True)
class PictureBatch:
    """Pictures [B, 3, H, W] uint8 with their names and captions."""

    images: Tensor
    keys: Sequence[str]
    captions: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, part: slice) -> "PictureBatch":
        return PictureBatch(images=self.images[part], keys=self.keys[part], captions=self.captions[part])

    @staticmethod
    def of(samples: Sequence[Sample], size: tuple[int, int]) -> "PictureBatch":
        """The pictures of a source's samples, of (height, width) each."""
        images = [sample.image for sample in samples] or [torch.empty(3, *size, dtype=torch.uint8)]
        return PictureBatch(
            images=torch.stack(images)[: len(samples)],
            keys=[sample.key for sample in samples],
            captions=[sample.caption for sample in samples],
        )


class PictureSet(Protocol):
    """Pictures in a fixed order."""

    digest: str
    """Identity of pictures, captions and transform."""

    def __len__(self) -> int:
        """Number of pictures, those that cannot be read included."""
        ...

    def read(self, start: int, stop: int) -> PictureBatch:
        """Pictures start..stop-1, without those that cannot be read."""
        ...


class HeldPictures:
    """A `PictureSet` in memory."""

    def __init__(self, pictures: PictureBatch) -> None:
        self.pictures = pictures
        names = json.dumps([list(pictures.keys), list(pictures.captions)])
        self.digest = hashlib.sha256(f"{tensor_sha256(pictures.images)} {names}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, start: int, stop: int) -> PictureBatch:
        return self.pictures[start:stop]


class SourcePictures:
    """A `PictureSet` that reads a source as its pictures are asked for.

    Args:
        source: where they are.
        corrupt: takes account of those that cannot be used.
        limit: the first so many; all of them where None.

    Raises:
        SoftDecodeError: the source does not know how many it has, and no limit is given.
    """

    def __init__(self, source: PictureSource, corrupt: CorruptPictures, limit: int | None = None) -> None:
        known = len(source) if hasattr(source, "__len__") else None  # type: ignore[arg-type]
        if known is None and limit is None:
            raise SoftDecodeError("a streamed data set does not know its size; say how many pictures with --limit")
        self.source = source
        self.corrupt = corrupt
        self.digest = source.identity
        self._count = min(count for count in (known, limit) if count is not None)
        self._samples: Iterator[Sample] = iter(())
        self._held: Sample | None = None
        self._next = -1

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, stop: int) -> PictureBatch:
        if start != self._next:  # what follows the last part is read on, anything else from its own start
            self._samples, self._held = self.source.samples(self.corrupt, start=start), None
        found = []
        while (sample := self._take()) is not None:
            if sample.number >= stop:
                self._held = sample
                break
            found.append(sample)
        self._next = stop
        return PictureBatch.of(found, self.source.transform.size)

    def _take(self) -> Sample | None:
        held, self._held = self._held, None
        return held or next(self._samples, None)
