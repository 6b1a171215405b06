"""What a decoder needs of its base, whichever transformer that is."""

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

from diffusers import AutoencoderKL
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.latents import vae_stride


class DecoderBase(nn.Module, ABC):
    """A diffusion transformer that predicts rectified-flow velocities of a VAE's latents, packed 2×2 into tokens.

    Text is excluded: no text tokens at all, and a zero pooled vector (spec section 3). A new base is a subclass with
    `token_dim` and `velocity`.
    """

    transformer: Any  # a diffusers ModelMixin
    vae: AutoencoderKL

    def __init__(self, transformer: nn.Module, vae: AutoencoderKL) -> None:
        super().__init__()
        self.transformer = transformer
        self.vae = vae

    @property
    @abstractmethod
    def token_dim(self) -> int:
        """Width D of the transformer."""

    @abstractmethod
    def velocity(self, tokens: Tensor, times: Tensor, condition: Tensor, grid: tuple[int, int]) -> Tensor:
        """The predicted velocity of noisy latent tokens (paper, equations 21 to 25).

        Args:
            tokens: [B, N, 4C] packed noisy latents.
            times: [B] in [0, 1], 1 is noise; kept in float32 as far as the transformer allows.
            condition: [B, N, D] condition tokens, added to the embedded ones.
            grid: token grid (h, w) with h·w = N.

        Returns:
            [B, N, 4C].
        """

    @property
    def latent_channels(self) -> int:
        """Channels C of the VAE's latents."""
        return self.vae.config["latent_channels"]

    @property
    def token_channels(self) -> int:
        """Channels 4C of a packed latent token."""
        return 4 * self.latent_channels

    def token_grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The grid of packed latent tokens of an image (height, width) in pixels."""
        unit = 2 * vae_stride(self.vae)
        if image_size[0] % unit or image_size[1] % unit:
            raise SoftDecodeError(f"image size {image_size} does not fit the token grid; use multiples of {unit}")
        return image_size[0] // unit, image_size[1] // unit

    def with_own_transformer(self) -> Self:
        """The same with a copy of the transformer; the VAE is shared."""
        return copy.deepcopy(self, {id(self.vae): self.vae})
