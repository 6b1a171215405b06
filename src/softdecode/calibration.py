"""Logit Calibration (LC): the encoder's proxy logits, made as sure of their tokens as the VLM is.

Paper section B.2, equations 9 to 16; spec section 2.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.files import read_json, write_json
from softdecode.mapping import TokenDistribution, entropy, log_probabilities, map_logits
from softdecode.statistics import TokenStatistics, statistics

_FORMAT = "softdecode-calibration-1"
_SEARCH_TOKENS = 4096  # for the search of epsilon; top-1's mean over them is within 0.005 of that over all


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
        finite = all(math.isfinite(value) for value in (self.kappa, self.alpha, self.beta))
        if not (finite and self.kappa > 0 and self.alpha > 0 and 0 <= self.epsilon < 1):
            raise SoftDecodeError(
                "a calibration needs finite kappa > 0, alpha > 0, beta and 0 <= epsilon < 1, got "
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
    def load(path: str | os.PathLike[str], codebook_sha256: str | None = None) -> "Calibration":
        """Read what `save` wrote.

        Args:
            path: of the file.
            codebook_sha256: of the codebook that it must have been fitted for; any where None.

        Raises:
            SoftDecodeError: the file is missing, not JSON, not a calibration, or of another codebook.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise SoftDecodeError(f"{path} is not a calibration file (expected format {_FORMAT})")
        try:
            for name in ("target", "reached", "raw"):
                if content[name] is not None:
                    content[name] = TokenStatistics(**{**content[name], "profile": tuple(content[name]["profile"])})
            found = Calibration(**{name.name: content.pop(name.name) for name in fields(Calibration)}, **content)
        except (KeyError, TypeError) as error:
            raise SoftDecodeError(f"{path} is not a whole calibration file ({error}); fit it again") from error
        if codebook_sha256 not in (None, found.codebook_sha256):
            raise SoftDecodeError(
                f"{path} was fitted for another codebook; run `softdecode calibrate` for the VLM whose decoder this is"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class CalibrationTarget:
    """What a fit aims at: the mean normalised entropy and the mean top-1 probability of a VLM's tokens, in [0, 1]."""

    entropy: float
    top1: float

    def __post_init__(self) -> None:
        if not (0 <= self.entropy <= 1 and 0 <= self.top1 <= 1):
            raise SoftDecodeError(
                f"the target's normalised entropy and top-1 lie in [0, 1], got {self.entropy} and {self.top1}"
            )


def proxy_distribution(
    features: Tensor, codebook: Tensor, calibration: Calibration, tokens: Tensor | None = None
) -> TokenDistribution:
    """The encoder's stand-in for the VLM's belief: calibrated cosines of encoder features [B, h, w, d], mapped.

    The chosen tokens are the nearest codes, where none are given.
    """
    return map_logits(calibration.for_encoder(proxy_logits(features, codebook)), codebook, tokens=tokens)


def smooth(log_probs: Tensor, epsilon: float) -> Tensor:
    """Label smoothing of log-probabilities [..., V]: log((1 - epsilon)·q + epsilon/V) (equation 15)."""
    if epsilon == 0:
        return log_probs
    floor = torch.log(torch.tensor(epsilon / log_probs.shape[-1], device=log_probs.device))
    return torch.logaddexp(log_probs + torch.log1p(torch.tensor(-epsilon, device=log_probs.device)), floor)


def fit_calibration(
    similarities: Callable[[], Iterable[Tensor]],
    target: TokenStatistics | CalibrationTarget,
    codebook: Tensor,
    *,
    codebook_sha256: str = "",
    kappa_range: tuple[float, float] = (0.01, 100_000.0),
    epsilons: tuple[float, ...] = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    tolerance: float = 0.005,
    protocol: dict[str, object] | None = None,
) -> Calibration:
    """Find kappa and epsilon with which the encoder is as sure as the VLM (paper's objective, equation 16).

    For each epsilon, kappa is bisected until the mean entropy is the target's; among these the pair whose mean top-1
    is nearest wins. Our kappa range is wider than the paper's [10, 60], which
    belongs to 16,384 codes of 8 dimensions.

    Args:
        similarities: returns the proxy logits [..., V] of the calibration images, batch by batch; called repeatedly.
        target: the VLM's statistics; those of them that the fit reads do, where the VLM is not at hand.
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

    sample = _some_tokens(similarities, _SEARCH_TOKENS)

    def solve(epsilon: float) -> tuple[Calibration, float, float]:
        return _solve(lambda: [sample], target, epsilon, kappa_range)

    def best(grid: Iterable[float]) -> tuple[Calibration, float, float]:
        tried = [solve(epsilon) for epsilon in grid]
        reached = [trial for trial in tried if trial[1] <= tolerance]
        return min(reached, key=lambda t: t[2]) if reached else min(tried, key=lambda t: t[1])

    # The search for epsilon reads a sample of the tokens, the last bisection of kappa all of them.
    winner = best(epsilons)
    place = epsilons.index(winner[0].epsilon)
    low, high = epsilons[max(place - 1, 0)], epsilons[min(place + 1, len(epsilons) - 1)]
    winner = min(winner, best(torch.linspace(low, high, 7).tolist()), key=lambda t: (t[1] > tolerance, t[2]))
    found, entropy_error, _ = _solve(similarities, target, winner[0].epsilon, kappa_range)
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
        target=target if isinstance(target, TokenStatistics) else None,
        reached=reached,
        raw=raw,
        protocol=protocol or {},
    )


def _some_tokens(similarities: Callable[[], Iterable[Tensor]], count: int) -> Tensor:
    """Proxy logits [T, V] of `count` tokens, drawn at random from all with a fixed seed; all where there are no more.

    At random, since every n-th would be the same column of each image wherever n and the grid's width agree.
    """
    total = sum(part[..., 0].numel() for part in similarities())
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count].sort().values
    picked, start = [], 0
    for part in similarities():
        rows = part.flatten(0, -2)
        inside = chosen[(chosen >= start) & (chosen < start + len(rows))] - start
        picked.append(rows[inside.to(rows.device)])
        start += len(rows)
    return torch.cat(picked)


def _solve(
    similarities: Callable[[], Iterable[Tensor]],
    target: TokenStatistics | CalibrationTarget,
    epsilon: float,
    kappa_range: tuple[float, float],
) -> tuple[Calibration, float, float]:
    """The kappa that reaches the target's entropy with this epsilon, and the errors of entropy and top-1 there."""
    kappa = _bisect_kappa(similarities, target.entropy, epsilon, kappa_range)
    candidate = Calibration(kappa=kappa, epsilon=epsilon)
    mean_entropy, top1 = _quick_statistics(similarities, candidate)
    return candidate, abs(mean_entropy - target.entropy), abs(top1 - target.top1)


def _quick_statistics(similarities: Callable[[], Iterable[Tensor]], calibration: Calibration) -> tuple[float, float]:
    """Mean normalised entropy and mean top-1, without the sorting that the full statistics need."""
    entropies, tops = [], []
    for part in similarities():
        log_probs = calibration.for_encoder(part)
        entropies.append((entropy(log_probs) / math.log(part.shape[-1])).double().flatten())
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
