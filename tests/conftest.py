"""Fixtures shared by the tests: deterministic properties, codebooks, distributions and a tiny base model."""

import pytest
import torch
from hypothesis import settings

from softdecode.mapping import map_logits

# Derandomised: the same examples in every run. No deadline, for no test asserts wall-clock time.
settings.register_profile("softdecode", derandomize=True, database=None, deadline=None, max_examples=60)
settings.load_profile("softdecode")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_codebook():
    """A random codebook [V, d] with rows of length 1."""

    def make(size=40, dim=4, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.nn.functional.normalize(torch.randn(size, dim, generator=generator), dim=-1)

    return make


@pytest.fixture(scope="session")
def make_distribution():
    """The distribution of random logits over a codebook, with tokens that are not always the most probable ones."""

    def make(codebook, batch=3, grid=(4, 4), seed=0, sharpness=3.0):
        generator = torch.Generator().manual_seed(seed)
        logits = sharpness * torch.randn(batch, *grid, len(codebook), generator=generator)
        tokens = torch.randint(0, len(codebook), (batch, *grid), generator=generator)
        return map_logits(logits, codebook, tokens=tokens)

    return make


@pytest.fixture(scope="session")
def make_vae():
    """A tiny VAE of random weights: 16×16 pixels to 2 channels of 8×8."""
    from softdecode.training.vae import VaeConfig, build_vae

    def make(seed=0, shift=0.25, scale=1.5):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            vae = build_vae(VaeConfig(channels=(8, 8), latent_channels=2, norm_groups=4), 16)
        vae.register_to_config(shift_factor=shift, scaling_factor=scale)
        return vae.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def make_base(make_vae):
    """A tiny transformer of random weights with its VAE: 4×4 tokens of width 16 for 16×16 pixels."""
    from softdecode.training.decoder import TransformerConfig, build_base

    def make(seed=0):
        vae = make_vae(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            base = build_base(TransformerConfig(layers=2, heads=1, head_dim=16), vae)
        return base.eval().requires_grad_(False)

    return make
