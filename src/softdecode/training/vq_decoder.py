"""Further training of a VQ decoder alone: the fair baseline of every soft decoder.

Encoder and codebook stay as they are, so the tokens do, and the VLM draws for the tuned decoder as for the old one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.images import to_unit_range
from softdecode.training.augment import Augmentation, augmented
from softdecode.training.task import Task
from softdecode.vlm.base import nearest_tokens
from softdecode.vlm.janus_tokenizer import JanusTokenizer


class VqDecoderTask(Task):
    """Trains the decoder of a JanusVQVAE on pictures [M, 3, H, W] uint8, with the loss of its first training."""

    def __init__(self, model: JanusVQVAE, images: Tensor, augmentation: Augmentation) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.tokenizer = JanusTokenizer(model)
        self.images = images
        self.augmentation: Augmentation = augmentation
        self.samples = len(images)
        for part in (model.decoder, model.post_quant_conv):
            part.requires_grad_(True)

    def batch(self, indices: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        return {"images": to_unit_range(augmented(self.images[indices], self.augmentation, generators))}

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        images = batch["images"]
        with torch.autocast(images.device.type, enabled=False):  # the tokens are those that float32 gives
            codebook = self.tokenizer.codebook
            codes = codebook[nearest_tokens(self.tokenizer.features(images), codebook)]
        decoded = self.model.decoder(self.model.post_quant_conv(codes.permute(0, 3, 1, 2)))
        error = decoded.float() - images
        absolute, squared = error.abs().mean(), error.square().mean()
        return {"loss": absolute + squared, "l1": absolute, "mse": squared}
