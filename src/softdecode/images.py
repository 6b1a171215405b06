"""Between image files and tensors."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_path


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8, rounded: [B, 3, H, W] on the CPU.

    Raises:
        SoftDecodeError: NaN or infinite pixels.
    """
    if not torch.isfinite(images).all():
        raise SoftDecodeError("the decoded images hold NaN or infinity; check the model's weights and dtype")
    return (images.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).cpu()


def to_pil(images: Tensor) -> list[Image.Image]:
    """uint8 [B, 3, H, W] to RGB pictures."""
    return [Image.fromarray(image.permute(1, 2, 0).numpy(), "RGB") for image in images]


def from_pil(image: Image.Image) -> Tensor:
    """A picture to [3, H, W] float32 in [-1, 1]; transparency is composited on white."""
    return to_unit_range(rgb_pixels(image))


def rgb_pixels(image: Image.Image) -> Tensor:
    """A picture to [3, H, W] uint8; transparency is composited on white."""
    rgba = image.convert("RGBA")
    rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)
    return pixels.permute(2, 0, 1)


def read_image(path: str | os.PathLike[str], size: tuple[int, int], *, resize: bool = False) -> Tensor:
    """Read a picture of exactly `size` (height, width): [3, H, W] float32 in [-1, 1].

    Args:
        path: of the file.
        size: what the model takes.
        resize: allow another size: the short side is resized (bicubic), then the centre is cropped.

    Raises:
        SoftDecodeError: no such file, not a picture, or another size without `resize`.
    """
    image = open_image(path)
    height, width = size
    if (image.height, image.width) != size:
        if not resize:
            raise SoftDecodeError(
                f"{path} is {image.width}×{image.height} pixels, the model takes {width}×{height}; "
                "resize it, or allow it with --resize"
            )
        image = resize_and_crop(image, size)
    return from_pil(image)


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture file, upright, as an RGBA picture of 8 bits.

    Raises:
        SoftDecodeError: no such file, or not a picture.
    """
    path = Path(path)
    try:
        with Image.open(path) as file:
            return _eight_bit(ImageOps.exif_transpose(file)).convert("RGBA")
    except UnidentifiedImageError as error:
        raise SoftDecodeError(f"{path} is not a picture that can be read; expected PNG, JPEG or WebP") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SoftDecodeError(f"cannot read the picture {path}: {reason}") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pictures of 16 bits a pixel, which Pillow would clip to white, scaled to 8 bits."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))


def resize_and_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize the short side (bicubic) so that the picture covers (height, width), then crop the centre."""
    height, width = size
    scale = max(width / image.width, height / image.height)
    resized = image.resize(
        (max(width, round(image.width * scale)), max(height, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture atomically; the suffix chooses the format."""
    with atomic_path(path) as temporary:
        image.save(temporary)
