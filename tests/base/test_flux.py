"""The base: exactly the pretrained transformer, without text, with the condition added to its tokens."""

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxFillPipeline, FluxTransformer2DModel
from torch import nn

from softdecode.base import FluxBase, load_base
from softdecode.errors import SoftDecodeError
from softdecode.training.vae import VaeConfig, build_vae

GRID = (2, 4)


def direct(transformer, tokens, times, grid, guidance=None):
    """The transformer's own call: no text tokens, a zero pooled vector, ids (0, row, column)."""
    ids = torch.tensor([[0.0, row, column] for row in range(grid[0]) for column in range(grid[1])])
    return transformer(
        hidden_states=tokens,
        encoder_hidden_states=torch.zeros(len(tokens), 0, transformer.config.joint_attention_dim),
        pooled_projections=torch.zeros(len(tokens), transformer.config.pooled_projection_dim),
        timestep=times,
        img_ids=ids,
        txt_ids=torch.zeros(0, 3),
        guidance=guidance,
    ).sample


class Given(nn.Module):
    """In the embedder's place: returns what it was made with."""

    def __init__(self, embedded):
        super().__init__()
        self.embedded = embedded

    def forward(self, _tokens):
        return self.embedded


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 8, 8, generator=generator),
        torch.tensor([0.3, 0.9]),
        torch.randn(2, 8, 16, generator=generator),
    )


def test_a_zero_condition_is_the_transformer_itself(make_base, inputs):
    base = make_base()
    tokens, times, condition = inputs
    found = base.velocity(tokens, times, torch.zeros_like(condition), GRID)
    assert torch.equal(found, direct(base.transformer, tokens, times, GRID))


def test_the_condition_is_added_to_the_embedded_tokens(make_base, inputs):
    base = make_base()
    tokens, times, condition = inputs
    found = base.velocity(tokens, times, condition, GRID)
    changed = copy.deepcopy(base.transformer)
    changed.x_embedder = Given(base.transformer.x_embedder(tokens) + condition)
    assert torch.equal(found, direct(changed, tokens, times, GRID))
    plain = direct(base.transformer, tokens, times, GRID)  # and nothing is left behind
    assert not torch.allclose(found, plain, atol=1e-3)
    assert torch.equal(base.velocity(tokens, times, torch.zeros_like(condition), GRID), plain)


def test_time_and_grid_matter(make_base, inputs):
    base = make_base()
    tokens, times, condition = inputs
    found = base.velocity(tokens, times, condition, GRID)
    assert not torch.allclose(found, base.velocity(tokens, times.flip(0), condition, GRID), atol=1e-4)
    assert not torch.allclose(found, base.velocity(tokens, times, condition, (4, 2)), atol=1e-4)


def test_a_condition_for_another_grid_is_refused(make_base, inputs):
    tokens, times, condition = inputs
    with pytest.raises(SoftDecodeError, match="token grid"):
        make_base().velocity(tokens, times, condition[:, :6], GRID)


def test_the_grid_of_a_size_in_pixels(make_base):
    base = make_base()
    assert base.token_grid((16, 24)) == (4, 6)
    for size in ((18, 16), (16, 30)):
        with pytest.raises(SoftDecodeError, match="multiples of 4"):
            base.token_grid(size)


def test_a_transformer_of_another_vae_is_refused(make_base):
    other = build_vae(VaeConfig(channels=(8, 8), latent_channels=4, norm_groups=4), 16)
    with pytest.raises(SoftDecodeError, match=r"8 channels.*16"):
        FluxBase(make_base().transformer, other)


def test_a_saved_base_is_read_back_exactly(make_base, tmp_path):
    base = make_base(seed=3)
    base.transformer.save_pretrained(tmp_path / "transformer")
    base.vae.save_pretrained(tmp_path / "vae")
    loaded = load_base(tmp_path)
    expected = base.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert (loaded.vae.config.shift_factor, loaded.vae.config.scaling_factor) == (0.25, 1.5)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(SoftDecodeError, match="absent"):
        load_base(tmp_path / "absent")


@pytest.fixture
def make_transformer():
    """A tiny transformer of both kinds of blocks for the tiny VAE's 2 channels, with guidance or without."""

    def make(channels, guidance):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return FluxTransformer2DModel(
                in_channels=channels,
                out_channels=8,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=12,
                pooled_projection_dim=6,
                guidance_embeds=guidance,
                axes_dims_rope=(4, 6, 6),
            ).eval()

    return make


def test_a_guidance_distilled_transformer_is_told_no_guidance(make_transformer, make_vae, inputs):
    transformer = make_transformer(8, guidance=True)
    tokens, times, _ = inputs
    found = FluxBase(transformer, make_vae()).velocity(tokens, times, torch.zeros(2, 8, 32), GRID)
    assert torch.equal(found, direct(transformer, tokens, times, GRID, torch.ones(2)))
    assert not torch.allclose(found, direct(transformer, tokens, times, GRID, 30 * torch.ones(2)), atol=1e-4)


def test_a_fill_transformer_is_the_untouched_one_fed_with_an_all_masked_picture(make_transformer, make_vae, inputs):
    """The masked picture and the mask are packed by diffusers' own FluxFillPipeline."""
    untouched, vae = make_transformer(8 + 8 + 16, guidance=True), make_vae()
    base = FluxBase(copy.deepcopy(untouched), vae)
    assert base.transformer.x_embedder.in_features == 8
    assert base.transformer.config.in_channels == 8
    tokens, times, _ = inputs
    for grid in (GRID, (4, 2)):
        height, width = 4 * grid[0], 4 * grid[1]
        grey = vae.encode(torch.zeros(1, 3, height, width)).latent_dist.mean
        pipeline = SimpleNamespace(vae=vae, vae_scale_factor=2, _pack_latents=FluxFillPipeline._pack_latents)
        mask, masked = FluxFillPipeline.prepare_mask_latents(
            pipeline, torch.ones(1, 1, height, width), grey, 2, 2, 1, height, width, torch.float32, "cpu", None
        )
        assert mask.min() == 1
        expected = direct(untouched, torch.cat([tokens, masked, mask], dim=-1), times, grid, torch.ones(2))
        found = base.velocity(tokens, times, torch.zeros(2, 8, 32), grid)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        other = direct(untouched, torch.cat([tokens, 0 * masked, 0 * mask], dim=-1), times, grid, torch.ones(2))
        assert not torch.allclose(found, other, atol=1e-3), "the masked channels matter"


def test_a_copy_of_a_fill_base_keeps_its_constants_and_shares_the_vae(make_transformer, make_vae, inputs):
    base = FluxBase(make_transformer(32, guidance=False), make_vae())
    tokens, times, _ = inputs
    condition = torch.zeros(2, 8, 32)
    before = base.velocity(tokens, times, condition, GRID)
    own = base.with_own_transformer()
    assert own.vae is base.vae
    with torch.no_grad():
        for parameter in own.transformer.parameters():
            parameter.add_(0.1)
    assert torch.equal(base.velocity(tokens, times, condition, GRID), before)
    assert not torch.allclose(own.velocity(tokens, times, condition, GRID), before, atol=1e-3)
    torch.testing.assert_close(own.masked_weight, base.masked_weight)
