"""Latents: packing against FLUX's own pipeline, and the VAE's shift and scale."""

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.latents import decode_latents, encode_images, pack, unpack, vae_stride

SHAPES = [(1, 1, 2, 2), (2, 3, 4, 8), (3, 16, 6, 4), (1, 2, 8, 8)]


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def flux_pipeline():
    from diffusers import FluxPipeline

    return FluxPipeline


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_is_fluxs_own(shape, flux_pipeline):
    latents = random_tensor(*shape)
    batch, channels, height, width = shape
    assert torch.equal(pack(latents), flux_pipeline._pack_latents(latents, batch, channels, height, width))


@pytest.mark.parametrize("shape", SHAPES)
def test_unpacking_is_fluxs_own(shape, flux_pipeline):
    batch, channels, height, width = shape
    tokens = random_tensor(batch, height * width // 4, 4 * channels)
    expected = flux_pipeline._unpack_latents(tokens, height * 8, width * 8, 8)
    assert torch.equal(unpack(tokens, (height // 2, width // 2)), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_and_unpacking_are_inverse(shape):
    latents = random_tensor(*shape)
    assert torch.equal(unpack(pack(latents), (shape[2] // 2, shape[3] // 2)), latents)
    assert torch.equal(
        unpack(pack(latents.contiguous(memory_format=torch.channels_last)), (shape[2] // 2, shape[3] // 2)), latents
    )


def test_a_token_is_the_2_by_2_patch_at_its_place():
    latents = random_tensor(1, 3, 6, 8)
    tokens = pack(latents)
    for row in range(3):
        for column in range(4):
            patch = latents[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(tokens[0, 4 * row + column], patch.flatten())


def test_encoding_subtracts_the_shift_and_multiplies_by_the_scale(make_vae):
    images = random_tensor(2, 3, 16, 32).clamp(-1, 1)
    vae = make_vae(shift=0.25, scale=1.5)
    mean = vae.encode(images).latent_dist.mean
    assert mean.shape == (2, 2, 8, 16)
    torch.testing.assert_close(encode_images(vae, images), (mean - 0.25) * 1.5)
    torch.testing.assert_close(encode_images(make_vae(shift=None, scale=1.5), images), mean * 1.5)


def test_decoding_undoes_them_and_clamps(make_vae):
    latents = 5 * random_tensor(2, 2, 8, 8)
    plain = make_vae().decode(latents).sample
    assert (plain.abs() > 1).any(), "the clamp has nothing to do; use greater latents"
    for shift, scale in ((0.25, 1.5), (-1.0, 0.2), (None, 3.0)):
        scaled = (latents - (shift or 0)) * scale
        torch.testing.assert_close(
            decode_latents(make_vae(shift=shift, scale=scale), scaled), plain.clamp(-1, 1), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 16, 18), (1, 3, 14, 16)])
def test_images_that_do_not_fit_the_grid_are_refused(shape, make_vae):
    with pytest.raises(SoftDecodeError, match="multiples of 4"):
        encode_images(make_vae(), torch.zeros(shape))


def test_the_stride_is_what_the_vae_does(make_vae):
    vae = make_vae()
    latents = vae.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mean
    assert 16 // latents.shape[-1] == vae_stride(vae)
