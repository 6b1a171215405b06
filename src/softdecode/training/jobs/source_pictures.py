"""A source of pictures as the feature cache reads it: part by part, in a fixed order."""

import hashlib
from collections.abc import Sized

import torch

from softdecode.data.sources import CorruptPictures, PictureSource
from softdecode.errors import SoftDecodeError
from softdecode.training.feature_cache import PictureBatch


class SourcePictures:
    """A `PictureSet` that is read from its source when it is asked for.

    Args:
        source: of known length.
        corrupt: takes account of pictures that cannot be used.
        limit: take the first so many only, those that cannot be used included.

    Raises:
        SoftDecodeError: a stream, which has no length.
    """

    def __init__(self, source: PictureSource, corrupt: CorruptPictures, limit: int | None = None) -> None:
        if not isinstance(source, Sized):
            raise SoftDecodeError("features are computed once for each picture, but a stream has no end; name it hf:")
        self.source = source
        self._corrupt = corrupt
        self._length = len(source) if limit is None else min(limit, len(source))
        self.digest = hashlib.sha256(f"{source.identity} {self._length}".encode()).hexdigest()

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> PictureBatch:
        samples = []
        for sample in self.source.samples(self._corrupt, start):
            if sample.number >= stop:
                break
            samples.append(sample)
        size = self.source.transform.size
        images = [sample.image for sample in samples]
        return PictureBatch(
            images=torch.stack(images) if images else torch.empty(0, 3, *size, dtype=torch.uint8),
            keys=[sample.key for sample in samples],
            captions=[sample.caption for sample in samples],
        )
