"""Between images, VAE latents and the transformer's tokens."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from softdecode.errors import SoftDecodeError


def vae_stride(vae: AutoencoderKL) -> int:
    """Pixels along one side of a latent."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def encode_images(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] to scaled latents [B, C, H/s, W/s] float32: (mean - shift)·scale (spec section 3).

    Raises:
        SoftDecodeError: a size that the VAE's stride, packed 2×2, does not divide.
    """
    unit = 2 * vae_stride(vae)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % unit or images.shape[3] % unit:
        raise SoftDecodeError(f"images must be [B, 3, H, W] with H and W multiples of {unit}, got {list(images.shape)}")
    mean = vae.encode(images.to(vae.device, vae.dtype), return_dict=False)[0].mean.to(torch.float32)
    return (mean - (vae.config["shift_factor"] or 0.0)) * vae.config["scaling_factor"]


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents [B, C, h, w] to images [B, 3, H, W] float32, clamped to [-1, 1]."""
    unscaled = latents / vae.config["scaling_factor"] + (vae.config["shift_factor"] or 0.0)
    return vae.decode(unscaled.to(vae.dtype), return_dict=False)[0].to(torch.float32).clamp(-1, 1)


def pack(latents: Tensor) -> Tensor:
    """Latents [B, C, 2h, 2w] to tokens [B, h·w, 4C], in FLUX's order: channel, row, column of each 2×2 patch."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens [B, h·w, 4C] on the grid (h, w) back to latents [B, C, 2h, 2w]."""
    batch, _, size = tokens.shape
    height, width = grid
    patches = tokens.view(batch, height, width, size // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, size // 4, 2 * height, 2 * width)
