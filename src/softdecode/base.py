"""The base of a decoder: a pretrained diffusion transformer with its latent VAE, run without any text."""

import os

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn

from softdecode.conditioning import added_to
from softdecode.errors import SoftDecodeError
from softdecode.latents import vae_stride
from softdecode.loading import load_pretrained


class FluxBase(nn.Module):
    """A FLUX-style transformer and VAE, as the diffusers folders of FLUX hold them.

    Text is excluded: no text tokens at all, and a zero pooled vector (spec section 3).
    """

    def __init__(self, transformer: FluxTransformer2DModel, vae: AutoencoderKL) -> None:
        super().__init__()
        self.transformer = transformer
        self.vae = vae
        packed = 4 * vae.config["latent_channels"]
        if transformer.config["in_channels"] != packed:
            raise SoftDecodeError(
                f"the transformer takes {transformer.config['in_channels']} channels, but the VAE's latents packed 2×2 "
                f"have {packed}; transformer and VAE must be of one model"
            )

    @staticmethod
    def from_pretrained(
        location: str | os.PathLike[str], *, revision: str | None = None, dtype: torch.dtype = torch.float32
    ) -> "FluxBase":
        """Load the subfolders `transformer` and `vae` of a FLUX folder or hub id, strictly."""
        load = {"revision": revision, "dtype": dtype}
        return FluxBase(
            load_pretrained(FluxTransformer2DModel, location, subfolder="transformer", **load),
            load_pretrained(AutoencoderKL, location, subfolder="vae", **load),
        )

    @property
    def token_dim(self) -> int:
        """Width D of the transformer."""
        return self.transformer.inner_dim

    def token_grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The grid of packed latent tokens of an image (height, width) in pixels."""
        unit = 2 * vae_stride(self.vae)
        if image_size[0] % unit or image_size[1] % unit:
            raise SoftDecodeError(f"image size {image_size} does not fit the token grid; use multiples of {unit}")
        return image_size[0] // unit, image_size[1] // unit

    def velocity(self, tokens: Tensor, times: Tensor, condition: Tensor, grid: tuple[int, int]) -> Tensor:
        """The predicted velocity of noisy latent tokens (equations 21 to 25).

        Args:
            tokens: [B, N, 4C] packed noisy latents.
            times: [B] in [0, 1], 1 is noise; kept in float32 as far as the transformer allows.
            condition: [B, N, D] condition tokens.
            grid: token grid (h, w) with h·w = N.

        Returns:
            [B, N, 4C].
        """
        config = self.transformer.config
        batch, device, dtype = len(tokens), tokens.device, condition.dtype
        guidance = torch.ones(batch, device=device) if config["guidance_embeds"] else None
        with added_to(self.transformer.x_embedder, condition):
            return self.transformer(
                hidden_states=tokens.to(dtype),
                encoder_hidden_states=torch.zeros(batch, 0, config["joint_attention_dim"], device=device, dtype=dtype),
                pooled_projections=torch.zeros(batch, config["pooled_projection_dim"], device=device, dtype=dtype),
                timestep=times.to(device),
                img_ids=_position_ids(grid, device),
                txt_ids=torch.zeros(0, 3, device=device),
                guidance=guidance,
                return_dict=False,
            )[0]


def _position_ids(grid: tuple[int, int], device: torch.device) -> Tensor:
    """FLUX's position ids [h·w, 3]: (0, row, column)."""
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], device=device), torch.arange(grid[1], device=device), indexing="ij"
    )
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3).float()
