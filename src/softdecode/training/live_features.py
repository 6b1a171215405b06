"""Features without a cache: the frozen encoders run in every step, on pictures as they come."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from softdecode.data.sources.stream import PictureStream
from softdecode.errors import SoftDecodeError
from softdecode.training.augment import Augmentation, augmented
from softdecode.training.encoding import FeatureEncoder
from softdecode.training.features import Features, IndexedRows
from softdecode.training.picture_sets import PictureBatch, PictureSet


class LiveFeatures(IndexedRows):
    """Features of a picture set, encoded when they are asked for; every time with another augmentation.

    Args:
        pictures: in a fixed order. One that cannot be read is left out: the next one stands in, and it is listed.
        encoder: the frozen models.
        augmentation: of every picture.
    """

    def __init__(self, pictures: PictureSet, encoder: FeatureEncoder, augmentation: Augmentation = "none") -> None:
        self.pictures = pictures
        self.encoder = encoder
        self.augmentation: Augmentation = augmentation

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self, indices: Tensor, generators: Sequence[torch.Generator]) -> Features:
        parts = [self._usable(index) for index in indices.tolist()]
        batch = PictureBatch(
            images=torch.cat([part.images for part in parts]),
            keys=[key for part in parts for key in part.keys],
            captions=[caption for part in parts for caption in part.captions],
        )
        return self.encoder.encode(augmented(batch.images, self.augmentation, generators), batch.captions, generators)

    def _usable(self, index: int) -> PictureBatch:
        for step in range(len(self)):
            place = (index + step) % len(self)
            found = self.pictures.read(place, place + 1)
            if len(found):
                return found
        raise SoftDecodeError("none of the training pictures can be read")


class StreamedFeatures:
    """Features of an endless stream: the indices that are asked for say how many, not which.

    Args:
        open_stream: opens this process's stream, at a state or, where None, at its beginning.
        encoder, augmentation: see `LiveFeatures`.
    """

    def __init__(
        self,
        open_stream: Callable[[dict[str, Any] | None], PictureStream],
        encoder: FeatureEncoder,
        augmentation: Augmentation = "none",
    ) -> None:
        self.encoder = encoder
        self.augmentation: Augmentation = augmentation
        self._open = open_stream
        self._stream = open_stream(None)
        self._latest: list[str] = []

    def __len__(self) -> int:
        return 2**31  # without end

    def rows(self, indices: Tensor, generators: Sequence[torch.Generator]) -> Features:
        samples = [next(self._stream) for _ in range(len(indices))]
        self._latest = [sample.key for sample in samples]
        images = torch.stack([sample.image for sample in samples])
        captions = [sample.caption for sample in samples]
        return self.encoder.encode(augmented(images, self.augmentation, generators), captions, generators)

    def example(self) -> Features:
        sample = next(self._open(None))
        return self.encoder.encode(sample.image[None], [sample.caption], [torch.Generator()])

    def names(self, indices: Tensor) -> list[str]:
        """Of the pictures that this process read last, whatever the indices."""
        return self._latest

    def state(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        self._stream = self._open(state)
