"""Logit Calibration (LC): how sure a model is of its tokens, and how the encoder is made as sure.

Paper section B.2, equations 9 to 16; spec section 2.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.files import read_json, write_json
from softdecode.mapping import entropy, log_probabilities, tail_entropy

PROFILE_LENGTH = 30
TABLE_HEAD = 8  # the printed Table 1 takes the entropy of the tail beyond rank 8
_FORMAT = "softdecode-calibration-1"


def proxy_logits(features: Tensor, codebook: Tensor) -> Tensor:
    """Cosine similarity of encoder features to every code (equations 10 and 13).

    Args:
        features: [B, h, w, d], after `quant_conv`, before quantisation; any length.
        codebook: [V, d], L2-normalised rows.

    Returns:
        [B, h, w, V] float32 in [-1, 1]; its argmax is the token.
    """
    unit = F.normalize(features.to(torch.float32), dim=-1)
    return unit @ codebook.to(features.device, torch.float32).T


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
            "entropy": entropy(flat) / torch.log(torch.tensor(float(size))),
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


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The transform of equations 14 and 15, with the statistics it was fitted to and reached.

    q = softmax(kappa·(alpha·S + beta)), then (1 - epsilon)·q + epsilon/V. The paper names four parameters, but beta
    cancels in the softmax and only kappa·alpha matters: our fit leaves alpha = 1 and beta = 0.

    Attributes:
        kappa: sharpness, > 0; the paper searches [10, 60].
        alpha, beta: scale and offset of the cosine.
        epsilon: label smoothing, in [0, 1).
        codebook_sha256: identity of the codebook it was fitted for.
        target, reached: statistics of the VLM, and of the encoder after the transform; None where set by hand.
        raw: statistics of the encoder before it (kappa = 1).
        protocol: how the statistics were taken (prompts, images, guidance, temperature, seeds).
    """

    kappa: float = 1.0
    alpha: float = 1.0
    beta: float = 0.0
    epsilon: float = 0.0
    codebook_sha256: str = ""
    target: TokenStatistics | None = None
    reached: TokenStatistics | None = None
    raw: TokenStatistics | None = None
    protocol: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.kappa > 0 or not self.alpha > 0 or not 0 <= self.epsilon < 1:
            raise SoftDecodeError(
                "a calibration needs kappa > 0, alpha > 0 and 0 <= epsilon < 1, got "
                f"kappa={self.kappa}, alpha={self.alpha}, epsilon={self.epsilon}"
            )

    def for_encoder(self, similarities: Tensor) -> Tensor:
        """Proxy logits [..., V], the cosine similarities, to calibrated log-probabilities (equations 14 and 15)."""
        return smooth(log_probabilities(self.kappa * (self.alpha * similarities + self.beta)), self.epsilon)

    def for_vlm(self, logits: Tensor) -> Tensor:
        """A VLM's own logits [..., V] to log-probabilities: label smoothing alone (spec section 2)."""
        return smooth(log_probabilities(logits), self.epsilon)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON with the paper's parameter names."""
        write_json(path, {"format": _FORMAT, **asdict(self)})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            SoftDecodeError: the file is missing, not JSON, or not a calibration.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise SoftDecodeError(f"{path} is not a calibration file (expected format {_FORMAT})")
        try:
            for name in ("target", "reached", "raw"):
                if content[name] is not None:
                    content[name] = TokenStatistics(**{**content[name], "profile": tuple(content[name]["profile"])})
            return Calibration(**content)
        except (KeyError, TypeError) as error:
            raise SoftDecodeError(f"{path} is not a whole calibration file ({error}); fit it again") from error


def smooth(log_probs: Tensor, epsilon: float) -> Tensor:
    """Label smoothing of log-probabilities [..., V]: log((1 - epsilon)·q + epsilon/V) (equation 15)."""
    if epsilon == 0:
        return log_probs
    floor = torch.log(torch.tensor(epsilon / log_probs.shape[-1], device=log_probs.device))
    return torch.logaddexp(log_probs + torch.log1p(torch.tensor(-epsilon, device=log_probs.device)), floor)


def fit_calibration(
    similarities: Callable[[], Iterable[Tensor]],
    target: TokenStatistics,
    codebook: Tensor,
    *,
    codebook_sha256: str = "",
    kappa_range: tuple[float, float] = (0.01, 1000.0),
    epsilons: tuple[float, ...] = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    tolerance: float = 0.005,
    protocol: dict[str, object] | None = None,
) -> Calibration:
    """Find kappa and epsilon with which the encoder is as sure as the VLM (paper's objective, equation 16).

    For each epsilon, kappa is bisected until the mean entropy is the target's; among these the pair whose mean top-1
    is nearest wins, and the other statistics break ties. Our kappa range is wider than the paper's [10, 60], which
    belongs to 16,384 codes of 8 dimensions.

    Args:
        similarities: returns the proxy logits [..., V] of the calibration images, batch by batch; called repeatedly.
        target: the VLM's statistics.
        codebook: [V, d], L2-normalised rows.
        codebook_sha256: stored in the result.
        kappa_range: where kappa is sought.
        epsilons: label smoothings to try, ascending; the grid is refined once around the best.
        tolerance: how near the mean entropy must come, else the fit fails.
        protocol: stored in the result.

    Raises:
        SoftDecodeError: the target entropy cannot be reached within the range.
    """
    if not 0 < kappa_range[0] < kappa_range[1]:
        raise SoftDecodeError(f"kappa range must ascend from above 0, got {kappa_range}")

    def solve(epsilon: float) -> tuple[Calibration, float, float]:
        kappa = _bisect_kappa(similarities, target.entropy, epsilon, kappa_range)
        candidate = Calibration(kappa=kappa, epsilon=epsilon)
        mean_entropy, top1 = _quick_statistics(similarities, candidate)
        return candidate, abs(mean_entropy - target.entropy), abs(top1 - target.top1)

    def best(grid: Iterable[float]) -> tuple[Calibration, float, float]:
        tried = [solve(epsilon) for epsilon in grid]
        reached = [trial for trial in tried if trial[1] <= tolerance]
        return min(reached, key=lambda t: t[2]) if reached else min(tried, key=lambda t: t[1])

    winner = best(epsilons)
    place = epsilons.index(winner[0].epsilon)
    low, high = epsilons[max(place - 1, 0)], epsilons[min(place + 1, len(epsilons) - 1)]
    winner = min(winner, best(torch.linspace(low, high, 7).tolist()), key=lambda t: (t[1] > tolerance, t[2]))
    found, entropy_error, _ = winner
    if entropy_error > tolerance:
        raise SoftDecodeError(
            f"no kappa in {kappa_range} brings the encoder's mean entropy to the VLM's {target.entropy:.4f} "
            f"(nearest: off by {entropy_error:.4f} at kappa {found.kappa:.4g}); widen the range, "
            "or check that encoder and VLM share the codebook"
        )
    reached = statistics((found.for_encoder(part) for part in similarities()), codebook)
    raw = statistics(similarities(), codebook)
    return Calibration(
        kappa=found.kappa,
        epsilon=found.epsilon,
        codebook_sha256=codebook_sha256,
        target=target,
        reached=reached,
        raw=raw,
        protocol=protocol or {},
    )


def _quick_statistics(similarities: Callable[[], Iterable[Tensor]], calibration: Calibration) -> tuple[float, float]:
    """Mean normalised entropy and mean top-1, without the sorting that the full statistics need."""
    entropies, tops = [], []
    for part in similarities():
        log_probs = calibration.for_encoder(part)
        entropies.append((entropy(log_probs) / torch.log(torch.tensor(float(part.shape[-1])))).double().flatten())
        tops.append(log_probs.amax(-1).exp().double().flatten())
    return float(torch.cat(entropies).mean()), float(torch.cat(tops).mean())


def _bisect_kappa(
    similarities: Callable[[], Iterable[Tensor]], entropy_target: float, epsilon: float, limits: tuple[float, float]
) -> float:
    """Mean entropy falls as kappa rises: bisect on log kappa. Returns a limit where the target lies beyond it."""
    low, high = limits
    for _ in range(30):
        middle = (low * high) ** 0.5
        reached, _top1 = _quick_statistics(similarities, Calibration(kappa=middle, epsilon=epsilon))
        if abs(reached - entropy_target) < 1e-5:
            return middle
        low, high = (middle, high) if reached > entropy_target else (low, middle)
    return (low * high) ** 0.5
