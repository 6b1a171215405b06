"""The autoregressive loop's arithmetic: guidance, temperature, top-k, and a draw from each image's own generator."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.mapping import TokenDistribution, log_probabilities, map_logits
from softdecode.seeds import generator_for
from softdecode.vlm.base import SamplingConfig


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of logits [B, V]: uncond + scale·(cond - uncond), in float32.

    A code that the model rules out (-inf) with the prompt stays ruled out.
    """
    conditional, unconditional = conditional.float(), unconditional.float()
    guided = unconditional + scale * (conditional - unconditional)
    return torch.where(torch.isneginf(conditional), conditional, guided)


def tempered(conditional: Tensor, unconditional: Tensor | None, sampling: SamplingConfig) -> Tensor:
    """The logits that belief and draw start from: guided where there are unconditional ones, over the temperature."""
    logits = conditional.float()
    if unconditional is not None:
        logits = guide(conditional, unconditional, sampling.guidance_scale)
    return logits / sampling.temperature if sampling.temperature > 0 else logits


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """All but the k greatest logits [B, V] become -inf; ties with the k-th stay; 0 keeps all."""
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    least = logits.topk(top_k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """All but the most probable codes become -inf, those whose mass first exceeds `top_p`; 1 keeps all of [B, V]."""
    if top_p >= 1:
        return logits
    ranked, order = logits.float().sort(dim=-1, descending=True)
    before = ranked.softmax(-1).cumsum(-1).roll(1, -1)
    before[..., 0] = 0  # the most probable code stays, whatever its mass
    kept = ranked.masked_fill(before > top_p, -torch.inf)
    return torch.empty_like(kept).scatter_(-1, order, kept)


def draw(logits: Tensor, sampling: SamplingConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one token for each row of tempered logits [B, V]: [B] int64.

    Each row inverts its own cumulative distribution at one uniform number of its own CPU generator, so that neither
    the batch nor the device decides.
    """
    if len(generators) != len(logits):
        raise SoftDecodeError(f"{len(logits)} rows of logits need as many generators, got {len(generators)}")
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probs = log_probabilities(keep_top_p(keep_top_k(logits, sampling.top_k), sampling.top_p)).exp().cpu().double()
    cumulative = probs.cumsum(-1)
    uniform = torch.cat([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
    # Below the total, and right of every code without mass before it.
    threshold = uniform.unsqueeze(-1) * cumulative[:, -1:]
    return (
        torch.searchsorted(cumulative, threshold, right=True)
        .squeeze(-1)
        .clamp_max(logits.shape[-1] - 1)
        .to(logits.device)
    )


def sample_tokens(
    next_logits: Callable[[Tensor | None], tuple[Tensor, Tensor | None]],
    *,
    codebook: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    sampling: SamplingConfig,
    calibration: Calibration | None = None,
    on_token: Callable[[int, int], None] | None = None,
    on_logits: Callable[[Tensor], None] | None = None,
) -> TokenDistribution:
    """Draw images token by token, reducing each step's logits at once to token, code vector and uncertainty.

    Args:
        next_logits: given the tokens [B] just drawn (None at first), returns conditional and unconditional logits
            [B, V] of the next; the latter None where guidance is off.
        codebook, grid, seeds, sampling, calibration, on_token, on_logits: see `ImageTokenModel`.
    """
    generators = [generator_for("vlm", seed) for seed in seeds]
    calibration = calibration or Calibration()
    total = grid[0] * grid[1]
    tokens: Tensor | None = None
    parts: list[TokenDistribution] = []
    for done in range(1, total + 1):
        logits = tempered(*next_logits(tokens), sampling)
        if on_logits is not None:
            on_logits(logits)
        tokens = draw(logits, sampling, generators)
        belief = calibration.for_vlm(logits)
        parts.append(map_logits(belief[:, None, None], codebook, tokens=tokens[:, None, None]))
        if on_token is not None:
            on_token(done, total)
    return TokenDistribution(
        tokens=torch.cat([p.tokens for p in parts], dim=1).view(len(seeds), *grid),
        codes=torch.cat([p.codes for p in parts], dim=1).view(len(seeds), *grid, -1),
        uncertainty=torch.cat([p.uncertainty for p in parts], dim=1).view(len(seeds), *grid, -1),
    )
