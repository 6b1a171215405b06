"""What the pipeline gives, as pictures or as tensors."""

from dataclasses import dataclass
from typing import Literal

from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.images import to_pil
from softdecode.mapping import TokenDistribution

OutputType = Literal["pil", "pt"]


@dataclass
class SoftDecodeOutput(BaseOutput):
    """What a call of the pipeline gives.

    Attributes:
        images: the soft-decoded pictures; RGB images, or uint8 [B, 3, H, W] where `output_type` is "pt".
        vq_images: the same tokens through the VLM's own VQ decoder, where asked for.
        distribution: what the decoder saw; it can be saved and decoded again without the VLM.
    """

    images: list[Image.Image] | Tensor
    vq_images: list[Image.Image] | Tensor | None
    distribution: TokenDistribution


def check_output_type(output_type: str) -> None:
    """Refuse output types other than "pil" and "pt", before any long work."""
    if output_type not in ("pil", "pt"):
        raise SoftDecodeError(f"unknown output type {output_type!r}; expected pil or pt")


def make_output(
    images: Tensor, vq_images: Tensor | None, distribution: TokenDistribution, output_type: OutputType
) -> SoftDecodeOutput:
    """The output for uint8 images [B, 3, H, W]."""
    if output_type == "pt":
        return SoftDecodeOutput(images=images, vq_images=vq_images, distribution=distribution)
    return SoftDecodeOutput(
        images=to_pil(images), vq_images=None if vq_images is None else to_pil(vq_images), distribution=distribution
    )
