"""The contract's own checks."""

import numpy as np
import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.vlm.base import SamplingConfig, check_prompts, nearest_tokens


@pytest.mark.parametrize("wrong", [{"guidance_scale": -0.1}, {"temperature": -1.0}, {"top_k": -1}])
def test_negative_sampling_settings_are_refused(wrong):
    with pytest.raises(SoftDecodeError, match=f"{next(iter(wrong))}.*{next(iter(wrong.values()))}"):
        SamplingConfig(**wrong)


def test_the_limits_themselves_are_allowed():
    config = SamplingConfig(guidance_scale=0, temperature=0, top_k=0)
    assert (config.guidance_scale, config.temperature, config.top_k) == (0, 0, 0)


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [
        ([], [], "at least one prompt"),
        (["a"], [], "1 prompts .* 0 seeds"),
        (["a"], [1, 2], "1 prompts .* 2 seeds"),
        (["a", "  \n", ""], [1, 2, 3], "prompt 2 of 3 is empty"),
    ],
)
def test_prompts_and_seeds_that_do_not_fit_are_refused(prompts, seeds, message):
    with pytest.raises(SoftDecodeError, match=message):
        check_prompts(prompts, seeds)


def test_prompts_with_as_many_seeds_pass():
    assert check_prompts(["a cat", "a dog"], [1, 1]) is None


def test_the_nearest_token_is_that_of_least_angle(make_codebook):
    codebook = make_codebook(50, 6)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 3, 4, 6, generator=generator) * torch.logspace(-2, 2, 24).view(2, 3, 4, 1)
    found = nearest_tokens(features, codebook)
    f, e = features.double().numpy(), codebook.double().numpy()
    angles = np.arccos(np.clip(f @ e.T / np.linalg.norm(f, axis=-1, keepdims=True), -1, 1))
    np.testing.assert_array_equal(found, angles.argmin(-1))
