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
from softdecode.errors import SoftDecodeError
from softdecode.latents import pack
from softdecode.mapping import TokenDistribution, hard_distribution
from softdecode.memory.blocks import blocks
from softdecode.training.augment import splice_masks
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
        splice: share of the samples that are spliced of two pictures, see `splice_masks`.
    """

    def __init__(self, decoders: Mapping[str, DistributionDecoder], features: Features, *, splice: float = 0.0) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(decoders)
        self.latents = features.latents
        self.drafts = features.drafts
        self.splice = splice
        self.drafted = {name for name, decoder in decoders.items() if decoder.config.draft}
        self.samples = len(features.latents)
        first = next(iter(decoders.values()))
        self.base = first.base
        self.grid = first.token_grid
        self.shift = first.flow_shift
        for decoder in decoders.values():
            assert decoder.base is self.base, "decoders trained together share one base"
            decoder.condition.requires_grad_(True)
        if splice and tuple(features.codes.shape[1:3]) != self.grid:
            raise SoftDecodeError(
                f"splicing needs one latent token for each VQ token, but the grids are {self.grid} and "
                f"{tuple(features.codes.shape[1:3])}; train without it"
            )
        self.inputs = _condition_inputs(decoders, features.codes)

    def compile_blocks(self) -> None:
        self.base.transformer.compile_repeated_blocks()

    def checkpoint_activations(self) -> None:
        self.base.transformer.enable_gradient_checkpointing()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Those of attention and feed-forward; the modulation's, which see the time only, are left to AdamW."""
        layers = blocks(self.base.transformer)
        return [p for block in layers for name, p in block.named_parameters() if p.ndim == 2 and "norm" not in name]

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        shares = indices.tensor_split(len(self.inputs))
        partners = torch.cat(
            [share.roll(1) for share in shares]
        )  # a sample is spliced with another of the same decoder
        mask = splice_masks(len(indices), self.grid, self.splice, generator)
        tokens = _spliced(pack(self.latents[indices].float()), pack(self.latents[partners].float()), mask.flatten(1))
        drafts = _spliced(pack(self.drafts[indices].float()), pack(self.drafts[partners].float()), mask.flatten(1))
        batch = {
            "tokens": tokens,
            "noise": torch.randn(tokens.shape, generator=generator),
            "times": flow.training_times(len(indices), self.shift, generator),
        }
        start = 0
        for (name, inputs), share in zip(self.inputs.items(), shares, strict=True):
            part = slice(start, start := start + len(share))
            for kind, values in zip(("codes", "uncertainty"), inputs, strict=True):
                batch[f"{kind} {name}"] = _spliced(
                    values[share], values[partners[part]], None if mask is None else mask[part]
                )
            if name in self.drafted:
                batch[f"draft {name}"] = drafts[part]
        return batch

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        conditions = []
        for name, decoder in self.decoders.items():
            assert isinstance(decoder, DistributionDecoder)
            codes, uncertainty = batch[f"codes {name}"], batch[f"uncertainty {name}"]
            conditions.append(decoder.condition(codes, uncertainty, self.grid, batch.get(f"draft {name}")).float())
        noisy = flow.interpolate(batch["tokens"], batch["noise"], batch["times"])
        # The condition is float32, and with it the sum that the transformer takes its dtype from: under autocast
        # bfloat16 would round the time to eight bits.
        predicted = self.base.velocity(noisy, batch["times"], torch.cat(conditions), self.grid)
        target = flow.velocity_target(batch["tokens"], batch["noise"])
        errors = F.mse_loss(predicted.float(), target, reduction="none").mean((1, 2))
        parts = errors.detach().tensor_split(len(self.decoders))
        named = {f"loss_{name}": part.mean() for name, part in zip(self.decoders, parts, strict=True)}
        return {"loss": errors.mean(), **named}


def _spliced(values: Tensor, others: Tensor, mask: Tensor | None) -> Tensor:
    """`values` [B, h, w, c] or [B, h·w, c], and `others` where the mask [B, h, w] says so."""
    return values if mask is None else torch.where(mask.view(*values.shape[:-1], 1), others, values)


@torch.no_grad()
def _condition_inputs(
    decoders: Mapping[str, DistributionDecoder], codes: Tensor, chunk: int = 512
) -> dict[str, tuple[Tensor, Tensor]]:
    """What each decoder sees of encoder features [M, h, w, d]: code vectors and uncertainty, calibrated its own way."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in decoders}
    for part in codes.split(chunk):
        # The mapping is the work here, and decoders may share a calibration; hard ones spare it.
        mapped: dict[tuple[float, ...], TokenDistribution] = {}
        for name, decoder in decoders.items():
            calibration, codebook, mode = decoder.calibration, decoder.codebook, decoder.config.mode
            if mode == "hard":
                distribution = hard_distribution(nearest_tokens(part, codebook), codebook)
            else:
                key = (calibration.kappa, calibration.alpha, calibration.beta, calibration.epsilon)
                if key not in mapped:
                    mapped[key] = proxy_distribution(part, codebook, calibration)
                distribution = mapped[key]
            parts[name].append(condition_inputs(distribution, codebook, mode))
    return {
        name: (torch.cat([vectors for vectors, _ in given]), torch.cat([uncertainty for _, uncertainty in given]))
        for name, given in parts.items()
    }
