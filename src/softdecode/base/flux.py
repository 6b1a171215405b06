"""FLUX: FLUX.1-dev, -schnell and -Fill, and transformers of the same class."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn

from softdecode.base.base import DecoderBase
from softdecode.conditioning import added_to
from softdecode.errors import SoftDecodeError
from softdecode.latents import encode_images, pack, vae_stride

# What a guidance-distilled model (dev, Fill) is told: no guidance on top, for the condition says all there is to say.
_GUIDANCE = 1.0


class FluxBase(DecoderBase):
    """A FLUX-style transformer and VAE.

    FLUX.1-Fill's embedder takes 4C noisy, 4C masked-image and 4s² mask channels (s: the VAE's stride). It is always fed
    "everything masked", so the part of the last two is a constant of the position: the given transformer's embedder is
    cut down to the noisy channels, and the constant is added to what it returns (spec section 3).

    Args:
        transformer: of either kind; a Fill transformer's embedder is replaced.
        vae: of the same model.

    Raises:
        SoftDecodeError: the transformer's channels are of neither kind.
    """

    masked_weight: Tensor | None

    def __init__(self, transformer: FluxTransformer2DModel, vae: AutoencoderKL) -> None:
        super().__init__(transformer, vae)
        packed, given = self.token_channels, transformer.config["in_channels"]
        fill = 2 * packed + 4 * vae_stride(vae) ** 2
        if given not in (packed, fill):
            raise SoftDecodeError(
                f"the transformer takes {given} channels, but the VAE's latents packed 2×2 "
                f"have {packed} ({fill} for a Fill model); transformer and VAE must be of one model"
            )
        masked_weight = _cut_embedder(transformer, packed) if given == fill else None
        self.register_buffer("masked_weight", masked_weight, persistent=False)
        self._masked: dict[tuple[int, int], Tensor] = {}

    @property
    def token_dim(self) -> int:
        return self.transformer.inner_dim

    def velocity(self, tokens: Tensor, times: Tensor, condition: Tensor, grid: tuple[int, int]) -> Tensor:
        config = self.transformer.config
        batch, device, dtype = len(tokens), tokens.device, condition.dtype
        guidance = torch.full((batch,), _GUIDANCE, device=device) if config["guidance_embeds"] else None
        if self.masked_weight is not None:
            condition = condition + self._masked_tokens(grid).to(condition)
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

    @torch.no_grad()
    def _masked_tokens(self, grid: tuple[int, int]) -> Tensor:
        """What a Fill embedder adds for a picture that is masked everywhere: [1, N, D], a constant of the grid."""
        assert self.masked_weight is not None
        if grid not in self._masked:
            unit = 2 * vae_stride(self.vae)
            grey = torch.zeros(1, 3, grid[0] * unit, grid[1] * unit)  # its pipeline blanks what is masked to 0
            latents = pack(encode_images(self.vae, grey))
            mask = latents.new_ones(1, latents.shape[1], self.masked_weight.shape[1] - latents.shape[2])
            inputs = torch.cat([latents, mask], dim=-1)
            self._masked[grid] = F.linear(inputs.to(self.masked_weight), self.masked_weight)
        return self._masked[grid]


def _cut_embedder(transformer: FluxTransformer2DModel, packed: int) -> Tensor:
    """Leave the embedder its first `packed` channels, and return the weight [D, others] of the rest."""
    whole = transformer.x_embedder
    cut = nn.Linear(packed, whole.out_features, device="meta")
    cut.weight = nn.Parameter(whole.weight.detach()[:, :packed].clone(), requires_grad=whole.weight.requires_grad)
    cut.bias = whole.bias
    transformer.x_embedder = cut
    transformer.register_to_config(in_channels=packed, out_channels=packed)
    return whole.weight.detach()[:, packed:].clone()


def _position_ids(grid: tuple[int, int], device: torch.device) -> Tensor:
    """FLUX's position ids [h·w, 3]: (0, row, column)."""
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], device=device), torch.arange(grid[1], device=device), indexing="ij"
    )
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3).float()
