"""Training of the latent VAE: a plain diffusers AutoencoderKL, as FLUX's, only smaller."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.images import to_unit_range
from softdecode.training.augment import Augmentation
from softdecode.training.picture_task import PictureTask


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """The VAE's size and its losses' weights."""

    channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each resolution, finest first; each further level halves the grid."""
    res_blocks: int = 1
    """Residual blocks a level (the decoder has one more)."""
    latent_channels: int = 8
    """Channels of the latents."""
    norm_groups: int = 8
    """Groups of each GroupNorm."""
    kl_weight: float = 1e-6
    """Weight of the KL divergence to the standard normal, a sum over a picture's latents."""

    def __post_init__(self) -> None:
        if self.norm_groups < 1 or any(channels % self.norm_groups for channels in self.channels):
            raise SoftDecodeError(
                f"each of the channels {self.channels} must be a multiple of norm_groups={self.norm_groups}"
            )


def build_vae(config: VaeConfig, image_size: int) -> AutoencoderKL:
    """An AutoencoderKL with random weights, without quantisation convolutions (as FLUX's)."""
    levels = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,  # type: ignore[arg-type]  # annotated as one-tuples upstream
        up_block_types=("UpDecoderBlock2D",) * levels,  # type: ignore[arg-type]
        block_out_channels=config.channels,  # type: ignore[arg-type]
        layers_per_block=config.res_blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        sample_size=image_size,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


class VaeTask(PictureTask):
    """Trains an AutoencoderKL on pictures [M, 3, H, W] uint8."""

    def __init__(
        self,
        model: AutoencoderKL,
        images: Tensor,
        config: VaeConfig,
        augmentation: Augmentation = "emoji",
        shown: Tensor | None = None,
    ) -> None:
        super().__init__(images, augmentation, shown)
        self.model = model
        self.config = config

    def batch(self, indices: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        images = self.augmented(indices, generators)
        scale = 2 ** (len(self.config.channels) - 1)
        shape = (self.config.latent_channels, images.shape[-2] // scale, images.shape[-1] // scale)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return {"images": images, "noise": noise}

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        images = batch["images"]
        posterior = self.model.encode(images, return_dict=False)[0]
        latents: Any = posterior.mean + posterior.std * batch["noise"]  # annotated as FloatTensor upstream
        error = self.model.decode(latents, return_dict=False)[0].float() - images
        absolute, squared = error.abs().mean(), error.square().mean()
        divergence = posterior.kl().mean()
        loss = absolute + squared + self.config.kl_weight * divergence
        return {"loss": loss, "l1": absolute, "mse": squared, "kl": divergence}

    def given_back(self, images: Tensor) -> Tensor:
        latents: Any = self.model.encode(images, return_dict=False)[0].mean
        return self.model.decode(latents, return_dict=False)[0]


@torch.no_grad()
def set_latent_scale(model: AutoencoderKL, images: Tensor, batch_size: int = 64) -> None:
    """Set the config's shift and scale so that (z - shift)·scale of these pictures has mean 0 and deviation 1."""
    latents = torch.cat(
        [model.encode(to_unit_range(part), return_dict=False)[0].mean for part in images.split(batch_size)]
    )
    model.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
