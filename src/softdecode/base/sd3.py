"""Stable Diffusion 3 and 3.5, whose transformer embeds latents itself and knows nothing of packed tokens."""

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor

from softdecode.base.base import DecoderBase
from softdecode.conditioning import added_to
from softdecode.errors import SoftDecodeError
from softdecode.latents import pack, unpack

_TIMESTEPS = 1000  # its time embedding counts from 0 to 1000


class Sd3Base(DecoderBase):
    """An SD3 transformer and VAE: the same flow, sign and patches as FLUX (arXiv 2403.03206).

    Raises:
        SoftDecodeError: transformer and VAE do not fit, or patches other than 2×2.
    """

    def __init__(self, transformer: SD3Transformer2DModel, vae: AutoencoderKL) -> None:
        super().__init__(transformer, vae)
        config = transformer.config
        if config["in_channels"] != self.latent_channels or config["patch_size"] != 2:
            raise SoftDecodeError(
                f"the transformer takes {config['in_channels']} channels in patches of {config['patch_size']}, but the "
                f"VAE's latents have {self.latent_channels} and 2 is expected; transformer and VAE must be of one model"
            )

    @property
    def token_dim(self) -> int:
        return self.transformer.inner_dim

    def velocity(self, tokens: Tensor, times: Tensor, condition: Tensor, grid: tuple[int, int]) -> Tensor:
        config = self.transformer.config
        batch, device, dtype = len(tokens), tokens.device, condition.dtype
        with added_to(self.transformer.pos_embed, condition):
            latents = self.transformer(
                hidden_states=unpack(tokens.to(dtype), grid),
                encoder_hidden_states=torch.zeros(batch, 0, config["joint_attention_dim"], device=device, dtype=dtype),
                pooled_projections=torch.zeros(batch, config["pooled_projection_dim"], device=device, dtype=dtype),
                timestep=times.to(device) * _TIMESTEPS,
                return_dict=False,
            )[0]
        return pack(latents)
