"""Codebooks that are compared by Euclidean distance, brought into the form of all others: unit vectors and cosines."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
