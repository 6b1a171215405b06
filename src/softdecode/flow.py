"""Rectified flow: pure functions, one sign convention.

t runs from 0 (data) to 1 (noise): z_t = (1 - t)·z0 + t·noise, and the model predicts the velocity v = noise - z0
(spec section 3; Liu et al. 2022, arXiv 2209.03003; the convention of SD3 and FLUX).
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError


def interpolate(latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """z_t of latents and noise [B, ...] at times [B] in [0, 1]."""
    t = times.view(-1, *[1] * (latents.ndim - 1))
    return (1 - t) * latents + t * noise


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """What the model learns to predict at every time: noise - z0."""
    return noise - latents


def shift_times(times: Tensor, shift: float) -> Tensor:
    """Move times in [0, 1] towards noise: t' = e^shift / (e^shift + 1/t - 1); 0 and 1 stay (FLUX, SD3)."""
    return math.exp(shift) * times / (1 + (math.exp(shift) - 1) * times)


def resolution_shift(tokens: int) -> float:
    """FLUX's shift for a sequence of latent tokens: linear, 0.5 at 256 tokens and 1.15 at 4096."""
    return 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)


def training_times(normals: Tensor, shift: float) -> Tensor:
    """Times [B] in (0, 1) for training, from as many standard normal draws: logit-normal, shifted (spec section 3)."""
    return shift_times(torch.sigmoid(normals), shift)


def sampling_times(steps: int, shift: float) -> Tensor:
    """Times [steps + 1] float32 from 1 down to 0: uniform, shifted.

    Raises:
        SoftDecodeError: fewer than one step.
    """
    if steps < 1:
        raise SoftDecodeError(f"denoising needs at least 1 step, got {steps}")
    times = shift_times(torch.linspace(1, 0, steps + 1), shift)
    times[0] = 1.0  # exactly, whatever the shift's rounding
    return times


def euler(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    times: Tensor,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Integrate from noise to data with Euler steps.

    Args:
        velocity: (z_t [B, ...], t) to the velocity [B, ...].
        noise: z at times[0].
        times: [steps + 1], descending, as from `sampling_times`.
        on_step: called after each step with (steps done, steps in total).

    Returns:
        z at times[-1], float32.
    """
    state = noise.to(torch.float32)
    grid = times.tolist()
    for done, (now, following) in enumerate(itertools.pairwise(grid), 1):
        state = state + (following - now) * velocity(state, now).to(torch.float32)
        if on_step is not None:
            on_step(done, len(grid) - 1)
    return state
