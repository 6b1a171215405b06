"""How sure a model is of its tokens: the statistics of the paper's Table 1 (equations 11, 12 and 1)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.mapping import entropy, log_probabilities, tail_entropy

PROFILE_LENGTH = 30
TABLE_HEAD = 8  # the printed Table 1 takes the entropy of the tail beyond rank 8


@dataclass(frozen=True, kw_only=True)
class TokenStatistics:
    """Statistics of token probabilities, averaged over tokens; the rows of the paper's Table 1.

    Attributes:
        tokens: how many tokens were averaged.
        top1, top2: mean first and second probability.
        top1_p95: 95th percentile of the first probability.
        entropy, entropy_p95: mean and 95th percentile of the entropy over log V, in [0, 1].
        tail_entropy: mean normalised entropy beyond rank 8, in [0, 1].
        otsu_rank: how many codes of the mean sorted profile Otsu's threshold counts as foreground.
        otsu_threshold: the smallest probability among them.
        head_mass: their mass.
        code_norm: mean length of the expected code vector, in [0, 1].
        profile: the first 30 values of the mean sorted profile.
    """

    tokens: int
    top1: float
    top2: float
    top1_p95: float
    entropy: float
    entropy_p95: float
    tail_entropy: float
    otsu_rank: int
    otsu_threshold: float
    head_mass: float
    code_norm: float
    profile: tuple[float, ...]


def otsu_rank(profile: Tensor) -> int:
    """Otsu's split of a descending probability profile [V]: the size of the head (paper appendix A, equation 1).

    Every code counts once; the split maximises the variance between the two classes' mean probabilities.
    """
    values = profile.to(torch.float64)
    size = len(values)
    if size < 2:
        raise SoftDecodeError(f"Otsu's threshold needs at least 2 codes, got {size}")
    counts = torch.arange(1, size, dtype=torch.float64, device=values.device)
    sums = values.cumsum(0)[:-1]
    head_mean, tail_mean = sums / counts, (values.sum() - sums) / (size - counts)
    between = counts * (size - counts) * (head_mean - tail_mean).square()
    return int(between.argmax()) + 1


class StatisticsAccumulator:
    """Collects statistics batch by batch, so that the logits of many images never exist at once."""

    def __init__(self, codebook: Tensor) -> None:
        self._codebook = codebook.to(torch.float32)
        self._profile = torch.zeros(len(codebook), dtype=torch.float64)
        self._columns: dict[str, list[Tensor]] = {"top1": [], "top2": [], "entropy": [], "tail": [], "norm": []}

    def add(self, log_probs: Tensor) -> None:
        """Count log-probabilities [..., V]."""
        size = log_probs.shape[-1]
        flat = log_probs.reshape(-1, size)
        probs = flat.exp()
        ordered = probs.sort(dim=-1, descending=True).values
        self._profile += ordered.sum(0, dtype=torch.float64).cpu()
        heads = torch.full((len(flat),), min(TABLE_HEAD, size), device=flat.device)
        columns = {
            "top1": ordered[:, 0],
            "top2": ordered[:, 1],
            "entropy": entropy(flat) / math.log(size),
            "tail": tail_entropy(flat, heads),
            "norm": (probs @ self._codebook.to(flat.device)).norm(dim=-1),
        }
        for name, column in columns.items():
            self._columns[name].append(column.double().cpu())

    def result(self) -> TokenStatistics:
        """The statistics of everything added.

        Raises:
            SoftDecodeError: nothing was added.
        """
        if not self._columns["top1"]:
            raise SoftDecodeError("no tokens to take statistics of; sample or encode at least one image")
        columns = {name: torch.cat(parts) for name, parts in self._columns.items()}
        tokens = len(columns["top1"])
        profile = self._profile / tokens
        rank = otsu_rank(profile)
        return TokenStatistics(
            tokens=tokens,
            top1=float(columns["top1"].mean()),
            top2=float(columns["top2"].mean()),
            top1_p95=_percentile95(columns["top1"]),
            entropy=float(columns["entropy"].mean()),
            entropy_p95=_percentile95(columns["entropy"]),
            tail_entropy=float(columns["tail"].mean()),
            otsu_rank=rank,
            otsu_threshold=float(profile[rank - 1]),
            head_mass=float(profile[:rank].sum()),
            code_norm=float(columns["norm"].mean()),
            profile=tuple(float(value) for value in profile[:PROFILE_LENGTH]),
        )


def _percentile95(values: Tensor) -> float:
    return float(values.kthvalue(max(1, round(0.95 * len(values)))).values)


def statistics(logits: Iterable[Tensor], codebook: Tensor) -> TokenStatistics:
    """Statistics of logits [..., V], given batch by batch."""
    accumulator = StatisticsAccumulator(codebook)
    for part in logits:
        accumulator.add(log_probabilities(part))
    return accumulator.result()
