"""SD3 as a base: exactly its transformer, without text, with the condition added to its tokens."""

import pytest
import torch
from diffusers import SD3Transformer2DModel

from softdecode.base import Sd3Base, load_base
from softdecode.errors import SoftDecodeError
from softdecode.latents import pack, unpack

GRID = (2, 4)


@pytest.fixture
def transformer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=2,
            out_channels=2,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=16,
            pooled_projection_dim=6,
            pos_embed_max_size=8,
        ).eval()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 8, 8, generator=generator),
        torch.tensor([0.3, 0.9]),
        torch.randn(2, 8, 16, generator=generator),
    )


def direct(transformer, latents, times):
    """The transformer's own call on latents [B, C, H, W], without text, at its timesteps from 0 to 1000."""
    return transformer(
        hidden_states=latents,
        encoder_hidden_states=torch.zeros(len(latents), 0, 12),
        pooled_projections=torch.zeros(len(latents), 6),
        timestep=1000 * times,
    ).sample


def test_a_zero_condition_is_the_transformer_itself(transformer, make_vae, inputs):
    tokens, times, condition = inputs
    base = Sd3Base(transformer, make_vae())
    found = base.velocity(tokens, times, torch.zeros_like(condition), GRID)
    torch.testing.assert_close(unpack(found, GRID), direct(transformer, unpack(tokens, GRID), times))


def test_the_condition_is_added_to_the_embedded_patches(transformer, make_vae, inputs):
    """An embedder's bias is added everywhere: a condition that is the same everywhere does the same."""
    tokens, times, condition = inputs
    base = Sd3Base(transformer, make_vae())
    everywhere = condition[:1, :1]
    found = base.velocity(tokens, times, everywhere.expand(2, 8, 16), GRID)
    plain = base.velocity(tokens, times, torch.zeros(2, 8, 16), GRID)
    with torch.no_grad():
        transformer.pos_embed.proj.bias += everywhere[0, 0]
    expected = pack(direct(transformer, unpack(tokens, GRID), times))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_each_token_gets_its_own_condition(transformer, make_vae, inputs):
    """Tokens in reading order: permuting rows of the picture and of the condition are the same up to positions."""
    tokens, times, condition = inputs
    base = Sd3Base(transformer, make_vae())
    seen = []
    handle = transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    base.velocity(tokens, times, torch.zeros_like(condition), GRID)
    base.velocity(tokens, times, condition, GRID)
    handle.remove()
    torch.testing.assert_close(seen[1] - seen[0], condition, rtol=0, atol=1e-5)


def test_it_is_known_by_its_folder(transformer, make_vae, tmp_path, inputs):
    transformer.save_pretrained(tmp_path / "transformer")
    make_vae().save_pretrained(tmp_path / "vae")
    base = load_base(tmp_path)
    assert isinstance(base, Sd3Base)
    assert base.token_dim == 16
    assert base.token_grid((8, 16)) == GRID
    tokens, times, condition = inputs
    expected = Sd3Base(transformer, make_vae()).velocity(tokens, times, condition, GRID)
    torch.testing.assert_close(base.velocity(tokens, times, condition, GRID), expected)


def test_a_transformer_of_another_vae_is_refused(transformer, make_vae):
    from softdecode.training.vae import VaeConfig, build_vae

    other = build_vae(VaeConfig(channels=(8, 8), latent_channels=4, norm_groups=4), 16)
    with pytest.raises(SoftDecodeError, match="of one model"):
        Sd3Base(transformer, other)
