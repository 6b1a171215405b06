"""What the frozen encoders make of a training picture: all that decoder training reads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

# What a cache stores. float32 where it matters: a calibration multiplies cosines by thousands before the softmax, and
# would make noise of a feature's rounding.
STORED_DTYPES: Mapping[str, torch.dtype] = {
    "codes": torch.float32,
    "tokens": torch.int32,
    "latents": torch.bfloat16,
    "drafts": torch.bfloat16,
    "belief_codes": torch.float16,
    "belief_uncertainty": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class Features:
    """The features of M pictures.

    Attributes:
        codes: [M, h, w, d], VQ features before quantisation.
        tokens: [M, h, w] integer, the codes next to them, some perhaps corrupted (see `corrupt_tokens`).
        latents: [M, C, H', W'], scaled VAE latents of the same pictures.
        drafts: [M, C, H', W'], those of the pictures that the VQ decoder makes of the tokens; None where no decoder
            sees one.
        belief_codes, belief_uncertainty: [M, h, w, d] and [M, h, w, 4], the frozen VLM's belief at each token given the
            caption and the tokens before (teacher forcing); None where no decoder is trained on it.
    """

    codes: Tensor
    tokens: Tensor
    latents: Tensor
    drafts: Tensor | None = None
    belief_codes: Tensor | None = None
    belief_uncertainty: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def named(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def rows(self, indices: Tensor) -> "Features":
        """The pictures at `indices` [B] int64."""
        return Features(**{name: value[indices] for name, value in self.named().items()})

    def spliced(self, others: "Features", mask: Tensor) -> "Features":
        """These pictures, and `others` where the mask [M, h, w] bool says so; latents are on k·h × k·w."""
        mixed = {}
        for name, value in self.named().items():
            on_grid = mask
            if name in ("latents", "drafts"):
                factor = value.shape[-1] // mask.shape[-1]
                on_grid = mask.repeat_interleave(factor, -2).repeat_interleave(factor, -1)[:, None]
            elif value.ndim == 4:
                on_grid = mask[..., None]
            mixed[name] = torch.where(on_grid, others.named()[name], value)
        return Features(**mixed)


class FeatureRows(Protocol):
    """Training data of decoders: read from a cache, or encoded as it is asked for."""

    endless: bool
    """Whether it is a stream: indices then say how many rows are wanted, not which."""

    def __len__(self) -> int:
        """Rows of an epoch."""
        ...

    def rows(self, indices: Tensor, generators: Sequence[torch.Generator]) -> Features:
        """The rows at `indices` [B] int64; the generators are for those that are augmented now."""
        ...

    def first(self, count: int) -> Features:
        """The first rows, `count` at most, to look at: where this process is in its data does not change."""
        ...

    def names(self, indices: Tensor) -> list[str] | None:
        """What the pictures of these rows are called."""
        ...

    def state(self) -> dict[str, Any]:
        """Where this process is in its data, as plain JSON, where indices do not say it all."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


class IndexedRows(ABC):
    """`FeatureRows` that have no state but their indices."""

    endless = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def rows(self, indices: Tensor, generators: Sequence[torch.Generator]) -> Features: ...

    def first(self, count: int) -> Features:
        count = min(count, len(self))
        return self.rows(torch.arange(count), [torch.Generator() for _ in range(count)])

    def names(self, indices: Tensor) -> list[str] | None:
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        del state


class HeldFeatures(IndexedRows):
    """Features in memory."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, indices: Tensor, generators: Sequence[torch.Generator]) -> Features:
        return self.features.rows(indices)
