"""Training of the VQ tokenizer: a plain transformers JanusVQVAE.

Its own `forward` cannot be trained (it decodes from indices, and takes the nearest code without normalising), so the
straight-through estimator is written here: cosine assignment to unit-norm codes that follow their features' moving
average (van den Oord et al. 2017, appendix A.1), with dead codes revived.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.errors import SoftDecodeError
from softdecode.training.augment import Augmentation
from softdecode.training.picture_task import PictureTask
from softdecode.vlm.base import nearest_tokens


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer's size and its losses' weights."""

    codes: int = 2048
    """Codebook size V."""
    code_dim: int = 8
    """Code dimension d."""
    base_channels: int = 64
    """Channels at full resolution; JanusVQVAE's GroupNorm has 32 groups, so 32 would be instance norm."""
    channel_multiplier: tuple[int, ...] = (1, 1, 2, 2)
    """Channels of each resolution, finest first; each further level halves the grid."""
    res_blocks: int = 1
    """Residual blocks a level (the decoder has one more)."""
    commitment: float = 0.25
    """Weight of the pull of features towards their codes."""
    locality: float = 2.0
    """Weight of the wish that a patch has the same features in another picture. Without it the encoder keeps details
    of the drawing in blank patches, whose tokens (8.5 bits each, measured) no VLM can then predict."""
    continuous_steps: int = 400
    """First steps, without quantisation; then the codes are drawn from the features."""
    code_decay: float = 0.99
    """Decay of the codes' moving averages."""
    revive_every: int = 25
    """Steps between revivals of dead codes."""

    def __post_init__(self) -> None:
        if self.base_channels < 32 or self.base_channels % 32:
            raise SoftDecodeError(
                f"base_channels must be a multiple of 32 (JanusVQVAE's groups), got {self.base_channels}"
            )


def build_tokenizer(config: TokenizerConfig, image_size: int, hidden_size: int) -> JanusVQVAE:
    """A JanusVQVAE with random weights and unit-norm codes.

    `hidden_size` is that of the language model it will serve, kept in the config for the VLM's aligner and head.
    """
    grid = image_size // 2 ** (len(config.channel_multiplier) - 1)
    model = JanusVQVAE(
        JanusVQVAEConfig(
            embed_dim=config.code_dim,
            num_embeddings=config.codes,
            latent_channels=config.base_channels * config.channel_multiplier[-1],
            base_channels=config.base_channels,
            channel_multiplier=list(config.channel_multiplier),
            num_res_blocks=config.res_blocks,
            num_patches=grid,
            projection_dim=hidden_size,
            image_token_embed_dim=hidden_size,
        )
    )
    weight = model.quantize.embedding.weight
    weight.data = F.normalize(torch.randn(weight.shape), dim=-1)
    weight.requires_grad_(False)  # moved by averages, not by gradients
    return model


@torch.no_grad()
def round_codes(model: JanusVQVAE) -> None:
    """Round the codes to bfloat16 values, so that the codebook is the same in whatever dtype the model is loaded."""
    codes = model.quantize.embedding.weight
    # Components that float16 would hold with fewer bits than bfloat16 become zero: they are next to nothing.
    codes.copy_(codes.masked_fill(codes.abs() < 2**-14, 0.0).to(torch.bfloat16))


class TokenizerTask(PictureTask):
    """Trains a JanusVQVAE on pictures [M, 3, H, W] uint8."""

    whole_batches = True  # codes follow all features of a step, and pictures are pasted into each other
    code_counts: Tensor
    code_sums: Tensor
    recent_features: Tensor

    def __init__(
        self,
        model: JanusVQVAE,
        images: Tensor,
        config: TokenizerConfig,
        augmentation: Augmentation = "emoji",
        shown: Tensor | None = None,
    ) -> None:
        super().__init__(images, augmentation, shown)
        self.model = model
        self.config = config
        codes = model.quantize.embedding.weight
        self.register_buffer("code_counts", torch.ones(len(codes)))
        self.register_buffer("code_sums", codes.detach().clone())
        self.register_buffer("recent_features", codes.detach().clone())

    def moved_tensors(self) -> dict[str, Tensor]:
        return {**dict(self.named_buffers(recurse=False)), "codes": self.model.quantize.embedding.weight}

    def batch(self, indices: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        images = self.augmented(indices, generators)
        grid = images.shape[-1] // 2 ** (len(self.config.channel_multiplier) - 1)
        draws = torch.stack([torch.rand(grid, grid, generator=generator) for generator in generators])
        return {"images": images, "pasted": draws < 0.5}

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        images = batch["images"]
        features = self._features(images)
        quantised, commitment, perplexity = self._quantise(features, step)
        hidden = self.model.post_quant_conv(quantised.permute(0, 3, 1, 2))
        error = self.model.decoder(hidden).float() - images
        absolute, squared = error.abs().mean(), error.square().mean()
        shift = torch.zeros_like(absolute)
        if self.config.locality:
            shift = self._context_shift(images, features, batch["pasted"])
        loss = absolute + squared + self.config.commitment * commitment + self.config.locality * shift
        return {
            "loss": loss,
            "l1": absolute,
            "mse": squared,
            "commitment": commitment,
            "context_shift": shift,
            "perplexity": perplexity,
        }

    def given_back(self, images: Tensor) -> Tensor:
        codes = self.model.quantize.embedding.weight
        nearest: Any = nearest_tokens(self._features(images), codes).flatten(1)  # annotated as LongTensor upstream
        return self.model.decode(nearest)

    def _features(self, images: Tensor) -> Tensor:
        """Unit features [B, h, w, d] before quantisation."""
        features = self.model.quant_conv(self.model.encoder(images)).float()
        return F.normalize(features.permute(0, 2, 3, 1), dim=-1)

    def _context_shift(self, images: Tensor, features: Tensor, pasted: Tensor) -> Tensor:
        """Mean squared change of features when half of each picture's patches are pasted into the next picture."""
        stride = images.shape[-1] // pasted.shape[-1]
        pixels = pasted.repeat_interleave(stride, -2).repeat_interleave(stride, -1).unsqueeze(1)
        mixed = self._features(torch.where(pixels, images, images.roll(1, 0)))
        kept = torch.where(pasted.unsqueeze(-1), features, features.roll(1, 0))
        return (mixed - kept).square().sum(-1).mean()

    def _quantise(self, features: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        flat = features.reshape(-1, features.shape[-1])
        with torch.autocast(features.device.type, enabled=False), torch.no_grad():
            codes = self.model.quantize.embedding.weight
            nearest = (flat @ codes.T).argmax(-1)
            counts = torch.bincount(nearest, minlength=len(codes)).float()
            if self.training:
                self._follow(flat, nearest, counts)
            usage = counts / counts.sum()
            perplexity = torch.exp(-torch.special.xlogy(usage, usage).sum())
            chosen = codes[nearest].view_as(features)
        if step < self.config.continuous_steps:
            return features, torch.zeros_like(perplexity), perplexity
        commitment = (features - chosen).square().sum(-1).mean()
        return features + (chosen - features).detach(), commitment, perplexity

    def _follow(self, flat: Tensor, nearest: Tensor, counts: Tensor) -> None:
        decay = self.config.code_decay
        self.code_counts.lerp_(counts, 1 - decay)
        self.code_sums.lerp_(torch.zeros_like(self.code_sums).index_add_(0, nearest, flat), 1 - decay)
        kept = min(len(flat), len(self.recent_features))
        self.recent_features = torch.cat([flat[:kept], self.recent_features[: len(self.recent_features) - kept]])

    @torch.no_grad()
    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Move the codes to their features' averages; put dead codes on recent features."""
        self.model.quantize.embedding.weight.copy_(F.normalize(self.code_sums, dim=-1, eps=1e-6))
        starting = step + 1 == self.config.continuous_steps
        if starting or (step + 1) % self.config.revive_every == 0:
            # A code that gets under a twentieth of its fair share is dead; at the start all of them are.
            dead = self.code_counts < 0.05 * self.code_counts.mean()
            if starting:
                dead = torch.ones_like(dead)
            places = torch.randint(len(self.recent_features), (int(dead.sum()),), generator=generator)
            self.code_sums[dead] = self.recent_features[places] * self.code_counts.mean()
            self.code_counts[dead] = self.code_counts.mean()
            self.model.quantize.embedding.weight.copy_(F.normalize(self.code_sums, dim=-1, eps=1e-6))
