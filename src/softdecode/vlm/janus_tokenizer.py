"""The VQ tokenizer of Janus, and of LlamaGen, whose structure is the same: VQ-16 as transformers' JanusVQVAE."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.errors import SoftDecodeError


class JanusTokenizer(nn.Module):
    """The VQ side of Janus: a JanusVQVAE with tokens by cosine."""

    def __init__(self, model: JanusVQVAE) -> None:
        super().__init__()
        self.model = model

    @property
    def codebook(self) -> Tensor:
        return F.normalize(self.model.quantize.embedding.weight.detach().float(), dim=-1)

    @property
    def grid(self) -> tuple[int, int]:
        side = self.model.quantize.quant_state_dims[0]
        return side, side

    @property
    def image_size(self) -> tuple[int, int]:
        stride = 2 ** (len(self.model.config.channel_multiplier) - 1)
        return self.grid[0] * stride, self.grid[1] * stride

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != (3, *self.image_size):
            raise SoftDecodeError(
                f"images must be [B, 3, {self.image_size[0]}, {self.image_size[1]}], got {list(images.shape)}"
            )
        weight = self.model.quant_conv.weight
        hidden = self.model.encoder(images.to(weight.device, weight.dtype))
        return self.model.quant_conv(hidden).permute(0, 2, 3, 1).float()

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        flat: Any = tokens.flatten(1)  # annotated as LongTensor upstream
        return self.model.decode(flat).float().clamp(-1, 1)

    @torch.no_grad()
    def decode_codes(self, codes: Tensor) -> Tensor:
        weight = self.model.post_quant_conv.weight
        unit = F.normalize(codes.to(weight.device, weight.dtype), dim=-1).permute(0, 3, 1, 2)
        return self.model.decoder(self.model.post_quant_conv(unit)).float().clamp(-1, 1)
