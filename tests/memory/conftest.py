"""A tiny job of the kind that trains on published bases, and the models that it would train on."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel

from softdecode.base import FluxBase
from softdecode.training.config import LoopConfig
from softdecode.training.jobs import PretrainedDecoderJob


@dataclass(frozen=True)
class Tokenizer:
    """What training asks of a tokenizer."""

    codebook: torch.Tensor
    grid: tuple[int, int]
    image_size: tuple[int, int]


@pytest.fixture(scope="session")
def make_tokenizer(make_codebook):
    def make(codes=40, dim=4, side=4, pixels=16, device="cpu"):
        return Tokenizer(make_codebook(codes, dim).to(device), (side, side), (pixels, pixels))

    return make


@pytest.fixture(scope="session")
def make_job():
    """Where its models lie does not matter: tests hand them over."""

    def make(trained="attention", precision="bf16", **changed):
        lora = {"lora_rank": 2, "lora_alpha": 2.0} if trained == "lora" else {}
        loop = LoopConfig(steps=1, batch_size=32, precision=precision)
        return PretrainedDecoderJob(
            output=Path("run"), vlm="vlm", base="base", images="images", hidden_channels=8, trained=trained,
            loop=loop, **lora, **changed,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def make_models(make_vae, make_tokenizer):
    """A Fill-style base with text-side weights, and a tokenizer: on the CPU or on the meta device."""

    def make(device, dtype):
        torch.manual_seed(0)
        packed, mask = 8, 4 * 2**2
        transformer = FluxTransformer2DModel(
            in_channels=2 * packed + mask, out_channels=packed, num_layers=2, num_single_layers=3,
            attention_head_dim=16, num_attention_heads=2, joint_attention_dim=12, pooled_projection_dim=6,
            guidance_embeds=True, axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
        base = FluxBase(transformer, make_vae()).requires_grad_(False).to(device, dtype)
        return base, make_tokenizer(device=device)

    return make
