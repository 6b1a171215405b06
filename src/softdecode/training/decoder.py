"""Training of decoders: rectified flow in latent space, conditioned on the encoder's proxy distributions.

Several decoders can be trained together on one transformer, each with its own condition encoder. They see the same
number of pictures, which makes their comparison a fair one at a fraction of the cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn

from softdecode import flow
from softdecode.base import FluxBase
from softdecode.calibration import proxy_distribution
from softdecode.conditioning import condition_inputs
from softdecode.decoder import DistributionDecoder
from softdecode.latents import pack
from softdecode.mapping import hard_distribution
from softdecode.training.features import Features
from softdecode.training.loop import Task
from softdecode.vlm.base import nearest_tokens


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size of a small FLUX-style transformer, trained from scratch."""

    layers: int = 8
    """Single-stream layers; the double-stream ones are for text, which is excluded."""
    heads: int = 4
    """Attention heads."""
    head_dim: int = 64
    """Width of a head."""


def build_base(config: TransformerConfig, vae: AutoencoderKL) -> FluxBase:
    """A FluxTransformer2DModel with random weights, for this VAE's latents."""
    third = config.head_dim // 8 * 3
    transformer = FluxTransformer2DModel(
        in_channels=4 * vae.config["latent_channels"],
        num_layers=0,
        num_single_layers=config.layers,
        attention_head_dim=config.head_dim,
        num_attention_heads=config.heads,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=False,
        axes_dims_rope=(config.head_dim - 2 * third, third, third),
    )
    return FluxBase(transformer, vae)


class DecoderTask(Task):
    """Trains decoders that share one base.

    Args:
        decoders: by name, all on the same base; each batch is shared out equally among them.
        features: of the training pictures. What each decoder sees of them is computed once, here.
    """

    def __init__(self, decoders: Mapping[str, DistributionDecoder], features: Features) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(decoders)
        self.latents = features.latents
        self.samples = len(features.latents)
        first = next(iter(decoders.values()))
        self.base = first.base
        self.grid = first.token_grid
        self.shift = first.flow_shift
        self.inputs: dict[str, tuple[Tensor, Tensor]] = {}
        for name, decoder in decoders.items():
            assert decoder.base is self.base, "decoders trained together share one base"
            self.inputs[name] = _condition_inputs(decoder, features.codes)
            decoder.condition.requires_grad_(True)

    def compile_blocks(self) -> None:
        self.base.transformer.compile_repeated_blocks()

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        tokens = pack(self.latents[indices].float())
        batch = {
            "tokens": tokens,
            "noise": torch.randn(tokens.shape, generator=generator),
            "times": flow.training_times(len(indices), self.shift, generator),
        }
        for (name, (codes, uncertainty)), share in zip(
            self.inputs.items(), indices.tensor_split(len(self.inputs)), strict=True
        ):
            batch[f"codes {name}"], batch[f"uncertainty {name}"] = codes[share], uncertainty[share]
        return batch

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        conditions = []
        for name, decoder in self.decoders.items():
            assert isinstance(decoder, DistributionDecoder)
            conditions.append(
                decoder.condition(batch[f"codes {name}"], batch[f"uncertainty {name}"], self.grid).float()
            )
        noisy = flow.interpolate(batch["tokens"], batch["noise"], batch["times"])
        # The condition is float32, and with it the sum that the transformer takes its dtype from: under autocast
        # bfloat16 would round the time to eight bits.
        predicted = self.base.velocity(noisy, batch["times"], torch.cat(conditions), self.grid)
        target = flow.velocity_target(batch["tokens"], batch["noise"])
        errors = F.mse_loss(predicted.float(), target, reduction="none").mean((1, 2))
        parts = errors.detach().tensor_split(len(self.decoders))
        named = {f"loss_{name}": part.mean() for name, part in zip(self.decoders, parts, strict=True)}
        return {"loss": errors.mean(), **named}


@torch.no_grad()
def _condition_inputs(decoder: DistributionDecoder, codes: Tensor, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """What a decoder sees of encoder features [M, h, w, d]: code vectors and uncertainty, calibrated its own way."""
    parts = []
    for part in codes.split(chunk):
        if decoder.config.mode == "hard":  # spares the mapping's work
            tokens = nearest_tokens(part, decoder.codebook)
            parts.append(condition_inputs(hard_distribution(tokens, decoder.codebook), decoder.codebook, "hard"))
            continue
        distribution = proxy_distribution(part, decoder.codebook, decoder.calibration)
        parts.append(condition_inputs(distribution, decoder.codebook, decoder.config.mode))
    return torch.cat([vectors for vectors, _ in parts]), torch.cat([uncertainty for _, uncertainty in parts])
