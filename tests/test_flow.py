"""Rectified flow: end points, exact integrals, and FLUX's own time shift."""

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from softdecode.errors import SoftDecodeError
from softdecode.flow import (
    euler,
    interpolate,
    resolution_shift,
    sampling_times,
    shift_times,
    training_times,
    velocity_target,
)

SHIFTS = (-1.0, 0.0, 0.5, 1.15, 3.0)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 5, generator=generator), torch.randn(3, 4, 5, generator=generator)


def test_time_0_is_data_and_time_1_is_noise(pair):
    latents, noise = pair
    assert torch.equal(interpolate(latents, noise, torch.zeros(3)), latents)
    assert torch.equal(interpolate(latents, noise, torch.ones(3)), noise)


def test_each_image_has_its_own_time(pair):
    latents, noise = pair
    found = interpolate(latents, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(found[0], latents[0])
    torch.testing.assert_close(found[1], 0.75 * latents[1] + 0.25 * noise[1])
    assert torch.equal(found[2], noise[2])


def test_the_velocity_is_the_derivative_of_the_path(pair):
    latents, noise = (part.double() for part in pair)
    for time in (0.1, 0.5, 0.9):
        later, earlier = (
            interpolate(latents, noise, torch.full((3,), time + h, dtype=torch.float64)) for h in (1e-3, -1e-3)
        )
        torch.testing.assert_close((later - earlier) / 2e-3, velocity_target(latents, noise))


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
@pytest.mark.parametrize("shift", SHIFTS)
def test_the_straight_lines_velocity_leads_from_the_noise_to_the_data(steps, shift, pair):
    latents, noise = pair
    found = euler(lambda _state, _time: velocity_target(latents, noise), noise, sampling_times(steps, shift))
    torch.testing.assert_close(found, latents, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 30])
def test_every_step_of_the_optimal_field_lies_on_the_line(steps, pair):
    # The field that a perfect model of this one picture would have: the line through the state it is given.
    latents, noise = pair
    visited = []

    def velocity(state, time):
        visited.append(time)
        torch.testing.assert_close(state, interpolate(latents, noise, torch.full((3,), time)), rtol=0, atol=1e-5)
        return (state - latents) / time

    times = sampling_times(steps, 0.8)
    torch.testing.assert_close(euler(velocity, noise, times), latents, rtol=0, atol=1e-5)
    assert visited == times[:-1].tolist()


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_euler_steps_of_a_linear_field_are_the_known_product(steps, pair):
    # dz/dt = z from 1 to 0: each step multiplies by (1 + difference of times).
    _, noise = pair
    times = sampling_times(steps, 0.5)
    factor = math.prod(1 + d for d in np.diff(times.double().numpy()))
    torch.testing.assert_close(euler(lambda state, _time: state, noise, times), factor * noise)


def test_euler_counts_its_steps_and_works_in_float32(pair):
    _, noise = pair
    counted = []
    result = euler(
        lambda state, _time: state.to(torch.bfloat16),
        noise.to(torch.bfloat16),
        sampling_times(3, 0.0),
        lambda *n: counted.append(n),
    )
    assert counted == [(1, 3), (2, 3), (3, 3)]
    assert result.dtype == torch.float32


@pytest.mark.parametrize("steps", [1, 2, 30, 1000])
@pytest.mark.parametrize("shift", SHIFTS)
def test_sampling_times_fall_from_1_to_0(steps, shift):
    times = sampling_times(steps, shift)
    assert len(times) == steps + 1
    assert times[0].item() == pytest.approx(1, abs=1e-6)
    assert times[-1] == 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("steps", [0, -1])
def test_less_than_one_step_is_refused(steps):
    with pytest.raises(SoftDecodeError, match=f"got {steps}"):
        sampling_times(steps, 0.5)


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_shift_is_fluxs_formula(shift):
    times = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    expected = [math.exp(shift) / (math.exp(shift) + (1 / t - 1)) for t in times.tolist()]
    np.testing.assert_allclose(shift_times(times, shift), expected, rtol=1e-12)


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_shift_adds_to_the_logit_and_keeps_the_ends(shift):
    times = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    torch.testing.assert_close(torch.logit(shift_times(times, shift)), torch.logit(times) + shift)
    ends = shift_times(torch.tensor([0.0, 1.0], dtype=torch.float64), shift)
    assert ends[0] == 0
    assert ends[1].item() == pytest.approx(1, abs=1e-15)
    torch.testing.assert_close(shift_times(shift_times(times, shift), -shift), times)


def test_no_shift_changes_not_one_bit():
    times = torch.linspace(0, 1, 101)
    assert torch.equal(shift_times(times, 0.0), times)


@pytest.mark.parametrize("steps", [1, 4, 30])
@pytest.mark.parametrize("tokens", [16, 256, 576, 4096])
def test_sampling_times_are_those_of_fluxs_scheduler(steps, tokens):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    slope = (1.15 - 0.5) / (4096 - 256)
    mu = tokens * slope + (0.5 - slope * 256)  # FluxPipeline's calculate_shift
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    torch.testing.assert_close(sampling_times(steps, resolution_shift(tokens)), scheduler.sigmas, rtol=0, atol=1e-6)


def test_the_resolution_shift_is_fluxs_line():
    assert resolution_shift(256) == pytest.approx(0.5, abs=1e-15)
    assert resolution_shift(4096) == pytest.approx(1.15, abs=1e-15)
    assert resolution_shift((256 + 4096) // 2) == pytest.approx((0.5 + 1.15) / 2, abs=1e-15)


@pytest.mark.parametrize("shift", [-0.5, 0.0, 1.15])
def test_training_times_are_logit_normal_around_the_shift(shift):
    times = training_times(torch.randn(40_000, generator=torch.Generator().manual_seed(1)), shift).double()
    assert ((times > 0) & (times < 1)).all()
    logits = torch.logit(times)
    # Standard errors are 0.005, 0.0035 and 0.0025: five of each are allowed.
    assert logits.mean().item() == pytest.approx(shift, abs=0.025)
    assert logits.std().item() == pytest.approx(1, abs=0.018)
    assert (logits < shift + 1).double().mean().item() == pytest.approx(0.841345, abs=0.0125)
