"""What is trained: exactly the weights that can learn, for each kind of base and each trained part."""

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

from softdecode.base import FluxBase, Sd3Base
from softdecode.calibration import Calibration
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import DecoderConfig
from softdecode.files import tensor_sha256
from softdecode.trained import is_text, is_trained, train_only, trained_parameters

PARTS = ("none", "adapter", "attention", "lora", "all")
GRID = (4, 4)


@pytest.fixture(params=["flux", "sd3.5"])
def base(request, make_vae):
    """Tiny transformers that have text-side weights, as the published ones do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if request.param == "flux":
            transformer = FluxTransformer2DModel(
                in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1,
                joint_attention_dim=12, pooled_projection_dim=6, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
            )  # fmt: skip
            return FluxBase(transformer, make_vae()).requires_grad_(False)
        transformer = SD3Transformer2DModel(
            sample_size=16, in_channels=2, out_channels=2, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=6, pos_embed_max_size=8,
            dual_attention_layers=(0,), qk_norm="rms_norm",
        )  # fmt: skip
        return Sd3Base(transformer, make_vae()).requires_grad_(False)


@pytest.fixture
def make_decoder(base, make_codebook):
    def make(trained):
        codebook = make_codebook()
        lora = {"lora_rank": 2, "lora_alpha": 2.0} if trained == "lora" else {}
        config = DecoderConfig(
            mode="soft", code_dim=4, hidden_channels=8, image_size=(16, 16), base="base", trained=trained,
            codebook_sha256=tensor_sha256(codebook), vlm="test", **lora,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(1)
            decoder = DistributionDecoder(config, base, codebook, Calibration())
            decoder.condition.projection.weight.data.normal_(std=0.3)
            for name, weight in base.transformer.named_parameters():
                if "lora_B" in name:  # zero at first, which stops A's gradient
                    weight.data.normal_()
        return decoder

    return make


def gradients(decoder, distribution):
    """By name, after one backward pass through all of the model."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(3, 16, 8, generator=generator)
    condition = decoder.condition_tokens(distribution)
    predicted = decoder.base.velocity(tokens, torch.tensor([0.2, 0.5, 0.9]), condition, GRID)
    (predicted * torch.randn(predicted.shape, generator=generator)).sum().backward()
    named = [("condition." + n, p) for n, p in decoder.condition.named_parameters()]
    named += [("transformer." + n, p) for n, p in decoder.base.transformer.named_parameters()]
    return {name: weight.grad for name, weight in named if weight.grad is not None}


def test_text_weights_are_those_without_a_gradient(make_decoder, base, make_codebook, make_distribution):
    """Found by training everything: all weights called text have a gradient of exactly zero, and no others have."""
    decoder = make_decoder("all")
    decoder.requires_grad_(True)
    base.vae.requires_grad_(False)
    found = gradients(decoder, make_distribution(make_codebook()))
    zero = {name.removeprefix("transformer.") for name, grad in found.items() if not grad.any()}
    text = {name for name, _ in base.transformer.named_parameters() if is_text(name)}
    assert zero == text != set()


@pytest.mark.parametrize("part", PARTS)
def test_gradients_are_on_the_trained_parameters_and_nowhere_else(part, make_decoder, make_codebook, make_distribution):
    decoder = make_decoder(part)
    train_only(decoder)
    if part == "none":
        assert trained_parameters(decoder) == {}
        assert not any(weight.requires_grad for weight in decoder.parameters())
        return
    found = gradients(decoder, make_distribution(make_codebook()))
    assert found.keys() == trained_parameters(decoder).keys()
    assert all(grad.any() for grad in found.values())


def test_attention_is_all_of_the_image_sides_attention(base):
    names = {name for name, _ in base.transformer.named_parameters() if is_trained(name, "attention")}
    kinds = {name.split(".attn")[1].split(".")[1] for name in names}
    assert kinds == {"to_q", "to_k", "to_v", "to_out", "norm_q", "norm_k"}
    for name, part in base.transformer.named_modules():
        if name.endswith((".attn", ".attn2")):
            assert f"{name}.to_q.weight" in names
            assert (f"{name}.to_out.0.weight" in names) == (getattr(part, "to_out", None) is not None)


def test_trained_weights_are_float32_and_frozen_ones_stay(make_decoder):
    decoder = make_decoder("attention").to(torch.bfloat16)
    train_only(decoder)
    trained = trained_parameters(decoder)
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    ids = {id(weight) for weight in trained.values()}
    others = [weight for weight in decoder.parameters() if id(weight) not in ids]
    assert {weight.dtype for weight in others} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in others)
