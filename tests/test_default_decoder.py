"""Decoders that nobody trained, on every kind of base, and when they are taken."""

import warnings

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

from softdecode import flow
from softdecode.base import FluxBase, Sd3Base
from softdecode.decoder import DistributionDecoder
from softdecode.default_decoder import UntrainedDecoderWarning, default_decoder
from softdecode.latents import decode_latents, pack, unpack
from softdecode.models import DEFAULT_BASE, DEFAULT_VLM
from softdecode.seeds import image_noise
from softdecode.vlm.registry import load_vlm


@pytest.fixture
def make_kind(make_base, make_vae):
    """A tiny base of each kind, always with the same weights."""

    def make(kind):
        if kind == "flux":
            return make_base()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            if kind == "fill":
                transformer = FluxTransformer2DModel(
                    in_channels=32, out_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16,
                    num_attention_heads=1, joint_attention_dim=12, pooled_projection_dim=6, guidance_embeds=True,
                    axes_dims_rope=(4, 6, 6),
                )  # fmt: skip
                return FluxBase(transformer.eval(), make_vae())
            transformer = SD3Transformer2DModel(
                sample_size=16, patch_size=2, in_channels=2, out_channels=2, num_layers=2, attention_head_dim=8,
                num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=6,
                pos_embed_max_size=8,
            )  # fmt: skip
            return Sd3Base(transformer.eval(), make_vae())

    return make


def untrained(base, codebook):
    return DistributionDecoder.untrained(base, codebook, vlm="tiny", image_size=(16, 16), base_name="./base")


@pytest.mark.parametrize("kind", ["flux", "fill", "sd3"])
def test_an_untrained_decoder_denoises_as_its_base_does(kind, make_kind, make_codebook, make_distribution):
    codebook = make_codebook()
    decoder = untrained(make_kind(kind), codebook)
    found = decoder.denoise(make_distribution(codebook), seeds=[1, 2, 3], steps=3)
    base = make_kind(kind)
    noise = pack(image_noise([1, 2, 3], (2, 8, 8), "decoder"))
    times = flow.sampling_times(3, flow.resolution_shift(16))
    nothing = torch.zeros(3, 16, base.token_dim)
    with torch.no_grad():
        tokens = flow.euler(lambda z, t: base.velocity(z, torch.full((3,), t), nothing, (4, 4)), noise, times)
        expected = decode_latents(base.vae, unpack(tokens, (4, 4)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["fill", "sd3"])
def test_a_decoder_on_each_kind_of_base_is_read_back(kind, make_kind, make_codebook, make_distribution, tmp_path):
    codebook = make_codebook()
    decoder = untrained(make_kind(kind), codebook)
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in decoder.condition.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    decoder.save_pretrained(tmp_path / "decoder", "card", dtype=torch.float32)
    read = DistributionDecoder.from_pretrained(tmp_path / "decoder", base=make_kind(kind))
    distribution = make_distribution(codebook)
    expected = decoder.denoise(distribution, seeds=[1, 2, 3], steps=2)
    assert torch.equal(read.denoise(distribution, seeds=[1, 2, 3], steps=2), expected)
    plain = untrained(make_kind(kind), codebook).denoise(distribution, seeds=[1, 2, 3], steps=2)
    assert not torch.allclose(expected, plain, atol=1e-3)


def test_the_embedded_decoder_is_taken_for_the_embedded_vlm_without_a_warning():
    vlm = load_vlm(DEFAULT_VLM)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrainedDecoderWarning)
        decoder = default_decoder(vlm)
    assert decoder.config.trained != "none"
    with pytest.warns(UntrainedDecoderWarning, match="vlm: its soft pictures .* do not show the prompt"):
        other = default_decoder(vlm, DEFAULT_BASE)
    assert other.config.trained == "none"
    assert other.config.base == str(DEFAULT_BASE)
    assert other.config.image_size == vlm.tokenizer.image_size
