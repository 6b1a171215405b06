"""Codebooks that are compared by Euclidean distance, brought into the form of all others: unit vectors and cosines."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError


class LiftedCodebook:
    """A codebook [V, d] with rows of any length as unit vectors [V, d + 2].

    The nearest row e of a feature f has the greatest f·e - |e|²/2. With codes (e, -|e|²/2, s), s making their lengths
    equal, and features (f, 1, 0), that is the greatest cosine: calibration, mapping and conditioning then work as they
    do for codebooks that are normalised. Both are divided by the rows' root mean square length first, so that no
    channel dwarfs the others.

    Args:
        weight: [V, d], as the quantiser holds it.
    """

    def __init__(self, weight: Tensor) -> None:
        table = weight.detach().float()
        self._unit = table.square().sum(-1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        table = table / self._unit
        bend = -table.square().sum(-1, keepdim=True) / 2
        lengths = (table.square().sum(-1, keepdim=True) + bend.square()).sqrt()
        self._radius = lengths.max()
        level = (self._radius.square() - lengths.square()).clamp_min(0).sqrt()
        self.vectors = F.normalize(torch.cat([table, bend, level], dim=-1), dim=-1)  # [V, d + 2] float32

    def lift(self, features: Tensor) -> Tensor:
        """Features [..., d] of the encoder to [..., d + 2], whose cosines rank the codes by distance."""
        scaled = features.float() / self._unit
        ones = torch.ones_like(scaled[..., :1])
        return torch.cat([scaled, ones, 0 * ones], dim=-1)

    def lower(self, codes: Tensor) -> Tensor:
        """Lifted code vectors [..., d + 2], of any length > 0, to what the quantiser would give [..., d]."""
        return F.normalize(codes.float(), dim=-1)[..., :-2] * (self._radius * self._unit)


class EuclideanTokenizer(nn.Module, ABC):
    """An `ImageTokenizer` whose quantiser compares by Euclidean distance; a family says how to encode and decode.

    Args:
        model: the family's VQ model.
        embedding: its codebook.
        image_size: (height, width) in pixels.
        stride: pixels along one side of a token.

    Raises:
        SoftDecodeError: an image size that the stride does not divide.
    """

    model: Any

    def __init__(self, model: nn.Module, embedding: nn.Embedding, image_size: tuple[int, int], stride: int) -> None:
        super().__init__()
        if image_size[0] % stride or image_size[1] % stride:
            raise SoftDecodeError(f"image size {image_size} does not fit the token grid; use multiples of {stride}")
        self.model = model
        self.image_size = image_size
        self.grid = (image_size[0] // stride, image_size[1] // stride)
        self._embedding = embedding

    @abstractmethod
    def encode_vectors(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to what the quantiser compares [B, h, w, d]."""

    @abstractmethod
    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """The quantiser's own vectors [B, h, w, d] to images [B, 3, H, W]."""

    @property
    def codebook(self) -> Tensor:
        return self._lifted.vectors

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != (3, *self.image_size):
            raise SoftDecodeError(
                f"images must be [B, 3, {self.image_size[0]}, {self.image_size[1]}], got {list(images.shape)}"
            )
        return self._lifted.lift(self.encode_vectors(images.to(self._embedding.weight)))

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        return self.decode_vectors(self._embedding(tokens)).float().clamp(-1, 1)

    @torch.no_grad()
    def decode_codes(self, codes: Tensor) -> Tensor:
        return self.decode_vectors(self._lifted.lower(codes).to(self._embedding.weight)).float().clamp(-1, 1)

    @property
    def _lifted(self) -> LiftedCodebook:
        return LiftedCodebook(self._embedding.weight)
