"""Features without a cache: the frozen encoders run in every step, on pictures as they come."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from softdecode.data.sources.picture import Sample
from softdecode.data.sources.stream import PictureStream
from softdecode.training.augment import Augmentation, augmented
from softdecode.training.encoding import FeatureEncoder
from softdecode.training.features import Features


class StreamedFeatures:
    """Features of an endless stream.

    Args:
        open_stream: opens this process's stream, at a state or, where None, at its beginning.
        encoder: the frozen models.
        augmentation: of every picture.
    """

    endless = True

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
        return self._encode(samples, self.augmentation, generators)

    def _encode(
        self, samples: Sequence[Sample], augmentation: Augmentation, generators: Sequence[torch.Generator]
    ) -> Features:
        images = torch.stack([sample.image for sample in samples])
        captions = [sample.caption for sample in samples]
        return self.encoder.encode(augmented(images, augmentation, generators), captions, generators)

    def first(self, count: int) -> Features:
        return self._encode(list(islice(self._open(None), count)), "none", [torch.Generator() for _ in range(count)])

    def names(self, indices: Tensor) -> list[str]:
        """Of the pictures that this process read last, whatever the indices."""
        return self._latest

    def state(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        self._stream = self._open(state)
