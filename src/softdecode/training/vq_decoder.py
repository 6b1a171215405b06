"""Further training of a VQ decoder alone: the fair baseline of every soft decoder.

Encoder and codebook stay as they are, so the tokens do, and the VLM draws for the tuned decoder as for the old one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.training.augment import Augmentation
from softdecode.training.picture_task import PictureTask
from softdecode.vlm.base import nearest_tokens
from softdecode.vlm.janus_tokenizer import JanusTokenizer


class VqDecoderTask(PictureTask):
    """Trains the decoder of a JanusVQVAE on pictures [M, 3, H, W] uint8, with the loss of its first training."""

    def __init__(
        self, model: JanusVQVAE, images: Tensor, augmentation: Augmentation, shown: Tensor | None = None
    ) -> None:
        super().__init__(images, augmentation, shown)
        self.model = model.requires_grad_(False)
        self.tokenizer = JanusTokenizer(model)
        for part in (model.decoder, model.post_quant_conv):
            part.requires_grad_(True)

    def batch(self, indices: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        return {"images": self.augmented(indices, generators)}

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        images = batch["images"]
        error = self.given_back(images).float() - images
        absolute, squared = error.abs().mean(), error.square().mean()
        return {"loss": absolute + squared, "l1": absolute, "mse": squared}

    def given_back(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # the tokens are those that float32 gives
            codebook = self.tokenizer.codebook
            codes = codebook[nearest_tokens(self.tokenizer.features(images), codebook)]
        return self.model.decoder(self.model.post_quant_conv(codes.permute(0, 3, 1, 2)))
