"""Logit-to-Code Distributional Mapping (LCDM): logits over the codebook become expected codes and uncertainty.

Paper section B.1, equations 4 to 8; spec section 1. No model code: a tensor of logits and a codebook are all it needs.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.files import read_tensors, write_tensors

_LEAST = -80.0  # log-probabilities below are those of impossible codes
UNCERTAINTY_FEATURES = ("top1", "margin", "head_mass", "tail_entropy")


@dataclass(frozen=True, kw_only=True)
class TokenDistribution:
    """What LCDM keeps of a model's belief about an image: d + 5 numbers a token instead of V logits.

    Attributes:
        tokens: [B, h, w] int64, the chosen codes (sampled by the VLM; the nearest code for an encoded image).
        codes: [B, h, w, d] float, expected code vectors; inside the unit ball, on its surface only for a sure token.
        uncertainty: [B, h, w, 4] float in [0, 1]: top-1 probability, margin to the second, mass of the head, and
            normalised entropy of the tail.
    """

    tokens: Tensor
    codes: Tensor
    uncertainty: Tensor

    def __post_init__(self) -> None:
        grid = tuple(self.tokens.shape)
        if len(grid) != 3 or self.tokens.dtype != torch.int64:
            raise SoftDecodeError(f"tokens must be int64 [B, h, w], got {self.tokens.dtype} {list(grid)}")
        if self.codes.ndim != 4 or tuple(self.codes.shape[:3]) != grid:
            raise SoftDecodeError(f"codes must be [{', '.join(map(str, grid))}, d], got {list(self.codes.shape)}")
        if tuple(self.uncertainty.shape) != (*grid, len(UNCERTAINTY_FEATURES)):
            raise SoftDecodeError(f"uncertainty must be {[*grid, 4]}, got {list(self.uncertainty.shape)}")
        if not (torch.isfinite(self.codes).all() and torch.isfinite(self.uncertainty).all()):
            raise SoftDecodeError("codes and uncertainty must be finite; the logits they came from were not")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: slice | Tensor | list[int]) -> "TokenDistribution":
        """Select images of the batch; the batch axis stays."""
        return TokenDistribution(
            tokens=self.tokens[index], codes=self.codes[index], uncertainty=self.uncertainty[index]
        )

    def to(self, device: torch.device | str) -> "TokenDistribution":
        """The same distribution on another device."""
        return TokenDistribution(
            tokens=self.tokens.to(device), codes=self.codes.to(device), uncertainty=self.uncertainty.to(device)
        )

    def save(self, path: str | os.PathLike[str], metadata: dict[str, str] | None = None) -> None:
        """Write one safetensors file, from which the images can be decoded later without the VLM."""
        write_tensors(path, {"tokens": self.tokens, "codes": self.codes, "uncertainty": self.uncertainty}, metadata)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "TokenDistribution":
        """Read what `save` wrote.

        Raises:
            SoftDecodeError: the file is missing, damaged or holds something else.
        """
        tensors, _ = read_tensors(path)
        if tensors.keys() != {"tokens", "codes", "uncertainty"}:
            raise SoftDecodeError(f"{path} holds {sorted(tensors)}, expected tokens, codes and uncertainty")
        return TokenDistribution(**tensors)


def concatenate(distributions: Sequence[TokenDistribution]) -> TokenDistribution:
    """Join the images of several distributions into one batch, in order."""
    if not distributions:
        raise SoftDecodeError("no distributions to join")
    return TokenDistribution(
        tokens=torch.cat([part.tokens for part in distributions]),
        codes=torch.cat([part.codes for part in distributions]),
        uncertainty=torch.cat([part.uncertainty for part in distributions]),
    )


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax in float32, with the shapes that logits take in practice checked.

    Args:
        logits: [..., V], any float dtype; -inf marks a code that is ruled out (top-k, padding of the head), +inf one
            that is certain.

    Returns:
        [..., V] float32.

    Raises:
        SoftDecodeError: NaN logits, or a token whose every code is ruled out.
    """
    logits = logits.to(torch.float32)
    if torch.isnan(logits).any():
        raise SoftDecodeError("the logits hold NaN; check the model's weights and dtype (float16 overflows easily)")
    certain = torch.isposinf(logits)
    if certain.any():
        # +inf: all the mass, shared among the codes that have it.
        has_certain = certain.any(-1, keepdim=True)
        logits = torch.where(has_certain, torch.where(certain, 0.0, -torch.inf), logits)
    if torch.isneginf(logits).all(-1).any():
        raise SoftDecodeError("a token has -inf logits for every code; at least one code must be possible")
    return torch.log_softmax(logits, dim=-1)


def probabilities(log_probs: Tensor) -> Tensor:
    """exp of log-probabilities; what lies below e^-80 is 0.

    Such numbers change no sum in float32, but the processor's exponential is ten times slower where it underflows, and
    most of a sharp distribution does.
    """
    return log_probs.clamp_min(_LEAST).exp().masked_fill_(log_probs < _LEAST, 0.0)


def entropy(log_probs: Tensor) -> Tensor:
    """Shannon entropy in nats over the last axis: [..., V] log-probabilities to [...], in [0, log V]."""
    return _entropy(log_probs, probabilities(log_probs))


def _entropy(log_probs: Tensor, probs: Tensor) -> Tensor:
    return (-(probs * log_probs.clamp_min(_LEAST)).sum(-1)).clamp_min(0.0)  # 0·log 0 is 0


def head_size(entropies: Tensor, minimum: int = 8, maximum: int = 64) -> Tensor:
    """The entropy-adaptive head K = clip(round(exp H), minimum, maximum) (spec section 1): int64, the shape of H."""
    return entropies.exp().round().clamp(minimum, maximum).to(torch.int64)


def tail_entropy(log_probs: Tensor, heads: Tensor) -> Tensor:
    """Entropy of the renormalised probabilities beyond the head, over log(V - head): [...] float32 in [0, 1].

    A tail without mass (in float32), or of a single code, has entropy 0.

    Args:
        log_probs: [..., V] log-probabilities.
        heads: [...] int64, how many of the most probable codes are the head; at most V.
    """
    values, places = log_probs.topk(min(log_probs.shape[-1], int(heads.max())), dim=-1)
    return _tail_entropy(log_probs, heads, values, places)


def _tail_entropy(log_probs: Tensor, heads: Tensor, values: Tensor, places: Tensor) -> Tensor:
    """`tail_entropy`, given the most probable codes (log-probabilities and places [..., >= heads], descending)."""
    in_head = torch.arange(values.shape[-1], device=heads.device) < heads.unsqueeze(-1)
    tail = log_probs.scatter(-1, places, values.masked_fill(in_head, -torch.inf))
    # Renormalised by the tail's own peak: the tail of a confident token is tiny, but has a shape all the same.
    peak = tail.amax(-1, keepdim=True)
    has_mass = (peak >= _LEAST).squeeze(-1)
    relative = tail - peak.clamp_min(_LEAST)
    weights = probabilities(relative)
    total = weights.sum(-1).clamp_min(1.0)
    nats = total.log() - (weights * relative.clamp_min(_LEAST)).sum(-1) / total
    count = (log_probs.shape[-1] - heads).to(log_probs.dtype)
    normalised = nats / count.clamp_min(2).log()
    return torch.where(has_mass & (count > 1), normalised, 0.0).clamp(0.0, 1.0)


def uncertainty_features(log_probs: Tensor, probs: Tensor, *, minimum_head: int = 8, maximum_head: int = 64) -> Tensor:
    """The four features of equation 8: [..., V] log-probabilities and probabilities to [..., 4] float32 in [0, 1]."""
    size = log_probs.shape[-1]
    heads = head_size(_entropy(log_probs, probs), minimum_head, maximum_head).clamp_max(size)
    values, places = log_probs.topk(min(size, max(maximum_head, 2)), dim=-1)
    top = probabilities(values)
    mass = top.cumsum(-1).gather(-1, heads.unsqueeze(-1) - 1).squeeze(-1)
    second = top[..., 1] if size > 1 else torch.zeros_like(top[..., 0])
    tail = _tail_entropy(log_probs, heads, values, places)
    return torch.stack([top[..., 0], top[..., 0] - second, mass, tail], dim=-1).clamp(0.0, 1.0)


def map_logits(
    logits: Tensor,
    codebook: Tensor,
    *,
    tokens: Tensor | None = None,
    minimum_head: int = 8,
    maximum_head: int = 64,
    chunk: int = 256,
) -> TokenDistribution:
    """Map logits to expected codes and uncertainty (equations 5 to 8).

    Args:
        logits: [B, h, w, V] after guidance and temperature; see `log_probabilities` for infinities.
        codebook: [V, d], L2-normalised rows.
        tokens: [B, h, w] int64, the chosen codes; the most probable ones where None.
        minimum_head, maximum_head: limits of the entropy-adaptive head K (paper: 8 and 64).
        chunk: tokens worked on at a time: the working memory beside the logits is some chunk·V floats.

    Returns:
        The distribution, in float32 on the device of the logits.

    Raises:
        SoftDecodeError: NaN logits, or shapes that do not agree.
    """
    if logits.ndim != 4 or codebook.ndim != 2 or logits.shape[-1] != len(codebook) or logits.numel() == 0:
        raise SoftDecodeError(
            "logits must be [B, h, w, V], not empty, for a codebook [V, d], "
            f"got {list(logits.shape)} and {list(codebook.shape)}"
        )
    if not 1 <= minimum_head <= maximum_head:
        raise SoftDecodeError(f"the head must satisfy 1 <= minimum <= maximum, got {minimum_head} and {maximum_head}")
    grid = logits.shape[:3]
    table = codebook.to(logits.device, torch.float32)
    codes, features, nearest = [], [], []
    for part in logits.reshape(-1, logits.shape[-1]).split(chunk):
        log_probs = log_probabilities(part)
        probs = probabilities(log_probs)
        codes.append(probs @ table)
        features.append(uncertainty_features(log_probs, probs, minimum_head=minimum_head, maximum_head=maximum_head))
        nearest.append(log_probs.argmax(-1))
    return TokenDistribution(
        tokens=torch.cat(nearest).view(grid) if tokens is None else tokens,
        codes=torch.cat(codes).view(*grid, -1),
        uncertainty=torch.cat(features).view(*grid, -1),
    )


def hard_distribution(tokens: Tensor, codebook: Tensor) -> TokenDistribution:
    """The distribution of tokens alone: code vectors of the chosen codes, uncertainty zero (Table 4's baseline).

    Args:
        tokens: [B, h, w] int64.
        codebook: [V, d], L2-normalised rows.
    """
    codes = codebook.to(tokens.device, torch.float32)[tokens]
    return TokenDistribution(tokens=tokens, codes=codes, uncertainty=codes.new_zeros(*tokens.shape, 4))
