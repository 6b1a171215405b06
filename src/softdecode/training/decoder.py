"""Training of decoders: rectified flow in latent space, conditioned on beliefs about the pictures' tokens.

Several decoders can be trained together on one transformer, each with its own condition encoder. They see the same
number of pictures, which makes their comparison a fair one at a fraction of the cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxTransformer2DModel
from PIL import Image
from torch import Tensor, nn

from softdecode import flow
from softdecode.base import FluxBase
from softdecode.calibration import proxy_distribution
from softdecode.conditioning import condition_inputs
from softdecode.decoder import DistributionDecoder
from softdecode.errors import SoftDecodeError
from softdecode.latents import decode_latents, pack
from softdecode.mapping import TokenDistribution, hard_distribution
from softdecode.memory.blocks import blocks as repeated_blocks
from softdecode.training.augment import splice_masks
from softdecode.training.features import FeatureRows, Features
from softdecode.training.previews import PREVIEWED, preview_sheet
from softdecode.training.task import Task


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
        decoders: n of them by name, all on the same base; sample p of a batch is for decoder p modulo n.
        features: of the training pictures, in memory or in a cache.
        splice: share of the samples that are spliced of two pictures, see `splice_masks`.
        shown: of the pictures for previews; the first training pictures where None.
    """

    def __init__(
        self,
        decoders: Mapping[str, DistributionDecoder],
        features: FeatureRows,
        *,
        splice: float = 0.0,
        shown: Features | None = None,
    ) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(decoders)
        self.features = features
        self.shown = shown
        self.splice = splice
        self.samples = len(features)
        self.endless = features.endless
        first = next(iter(decoders.values()))
        self.base = first.base
        self.grid = first.token_grid
        self.shift = first.flow_shift
        sample = features.first(1)
        for name, decoder in decoders.items():
            assert decoder.base is self.base, "decoders trained together share one base"
            decoder.condition.requires_grad_(True)
            _check_features(name, decoder, sample)
        grid = tuple(sample.tokens.shape[1:])
        if splice and grid != self.grid:
            raise SoftDecodeError(
                f"splicing needs one latent token for each VQ token, but the grids are {self.grid} and {grid}; "
                "train without it"
            )
        if splice and self.samples < 2:
            raise SoftDecodeError("splicing needs at least 2 training pictures; train without it")

    def blocks(self) -> list[nn.Module]:
        return repeated_blocks(self.base.transformer)

    def checkpoint_activations(self) -> None:
        self.base.transformer.enable_gradient_checkpointing()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Those of attention and feed-forward; the modulation's, which see the time only, are left to AdamW."""
        return [
            p for block in self.blocks() for name, p in block.named_parameters() if p.ndim == 2 and "norm" not in name
        ]

    def names(self, indices: Tensor) -> list[str] | None:
        return self.features.names(indices)

    def data_state(self) -> dict[str, Any]:
        return self.features.state()

    def load_data_state(self, state: dict[str, Any]) -> None:
        self.features.load_state(state)

    def batch(self, indices: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        count = len(self.decoders)
        if len(indices) % count:
            raise SoftDecodeError(
                f"{count} decoders are trained together, so each process and micro-batch needs a multiple of {count} "
                f"samples, got {len(indices)}; change --loop.batch-size"
            )
        features = self.features.rows(indices, generators)
        if self.splice:
            # With others of the training data, wherever in it: a sample does not depend on the batch it is in.
            steps = [int(torch.randint(1, self.samples, (), generator=generator)) for generator in generators]
            partners = self.features.rows((indices + torch.tensor(steps)) % self.samples, generators)
            features = features.spliced(partners, splice_masks(self.grid, self.splice, generators))
        normals = torch.stack([torch.randn((), generator=generator) for generator in generators])
        shape = pack(features.latents[:1]).shape[1:]
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return {"noise": noise, "times": flow.training_times(normals, self.shift), **features.named()}

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        noise, times = batch["noise"], batch["times"]
        features = Features(**{name: value for name, value in batch.items() if name not in ("noise", "times")})
        latents = pack(features.latents.float())
        condition = self._condition(features)
        noisy = flow.interpolate(latents, noise, times)
        # The condition is float32, and with it the sum that the transformer takes its dtype from: under autocast
        # bfloat16 would round the time to eight bits.
        predicted = self.base.velocity(noisy, times, condition, self.grid)
        target = flow.velocity_target(latents, noise)
        errors = F.mse_loss(predicted.float(), target, reduction="none").mean((1, 2))
        means = errors.detach().view(-1, len(self.decoders)).mean(0)
        named = {f"loss_{name}": mean for name, mean in zip(self.decoders, means, strict=True)}
        return {"loss": errors.mean(), **named}

    def seen(self, decoder: DistributionDecoder, features: Features) -> tuple[Tensor, Tensor]:
        """What a decoder sees of features, see `seen_in_training`."""
        return seen_in_training(decoder, features)

    def _condition(self, features: Features) -> Tensor:
        """Condition tokens [B, N, D] float32, each sample's by its own decoder."""
        count = len(self.decoders)
        conditions = []
        for place, decoder in enumerate(self.decoders.values()):
            assert isinstance(decoder, DistributionDecoder)
            own = features.rows(torch.arange(place, len(features), count))
            conditions.append(self._condition_by(decoder, own).float())
        return torch.stack(conditions, 1).flatten(0, 1)

    def _condition_by(self, decoder: DistributionDecoder, features: Features) -> Tensor:
        codes, uncertainty = self.seen(decoder, features)
        draft = pack(features.drafts.float()) if decoder.config.draft and features.drafts is not None else None
        return decoder.condition(codes, uncertainty, self.grid, draft)

    def preview(self, step: int) -> Image.Image:
        """What the VAE can show of the pictures, and what each decoder makes of their features."""
        device = next(self.parameters()).device
        shown = self.features.first(PREVIEWED) if self.shown is None else self.shown
        features = Features(**{name: value.to(device) for name, value in shown.named().items()})
        # Of a large base the trained weights alone are float32; autocast is what makes them fit the others.
        mixed = len({parameter.dtype for parameter in self.base.parameters()}) > 1
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            columns = {"round trip": decode_latents(self.base.vae, features.latents.float())}
            for name, decoder in self.decoders.items():
                assert isinstance(decoder, DistributionDecoder)
                condition = self._condition_by(decoder, features)
                columns[name] = decoder.denoise_given(condition, seeds=range(len(features)))
        return preview_sheet(columns)


@torch.no_grad()
def seen_in_training(decoder: DistributionDecoder, features: Features) -> tuple[Tensor, Tensor]:
    """What a decoder sees of features: code vectors [B, h, w, d or 2d] and uncertainty [B, h, w, 4], float32.

    It is the VLM's own belief for decoders that are trained with teacher forcing, and the calibrated proxy for others.
    """
    config, codebook, tokens = decoder.config, decoder.codebook, features.tokens.long()
    with torch.autocast(codebook.device.type, enabled=False):  # the mapping's arithmetic is float32
        if config.mode == "hard":
            distribution = hard_distribution(tokens, codebook)
        elif config.source == "proxy":
            distribution = proxy_distribution(features.codes, codebook, decoder.calibration, tokens)
        else:
            assert features.belief_codes is not None
            assert features.belief_uncertainty is not None
            distribution = TokenDistribution(
                tokens=tokens, codes=features.belief_codes.float(), uncertainty=features.belief_uncertainty.float()
            )
        return condition_inputs(distribution, codebook, config.mode)


def _check_features(name: str, decoder: DistributionDecoder, features: Features) -> None:
    """Refuse to train a decoder on features that lack what it sees."""
    missing = []
    if decoder.config.draft and features.drafts is None:
        missing.append("drafts")
    if decoder.config.source == "teacher-forced" and features.belief_codes is None:
        missing.append("the VLM's beliefs")
    if missing:
        raise SoftDecodeError(f"the decoder {name} needs {' and '.join(missing)}, which the features lack; encode them")
