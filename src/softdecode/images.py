"""Between image files and tensors."""

import os
from pathlib import Path
from typing import BinaryIO

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
    return to_unit_range(to_pixels(image))


def to_pixels(image: Image.Image) -> Tensor:
    """A picture to [3, H, W] uint8; transparency is composited on white."""
    rgb = image.convert("RGB") if not image.has_transparency_data else _on_white(image.convert("RGBA"))
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
    path = Path(path)
    image = open_picture(path, str(path))
    height, width = size
    if (image.height, image.width) != size:
        if not resize:
            raise SoftDecodeError(
                f"{path} is {image.width}×{image.height} pixels, the model takes {width}×{height}; "
                "resize it, or allow it with --resize"
            )
        image = resize_and_crop(image, size)
    return from_pil(image)


def open_picture(file: Path | BinaryIO, name: str, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Read a whole picture: upright by its EXIF orientation, 8 bits a channel, RGB, or RGBA where it has transparency.

    Args:
        file: where it is, or an open binary file.
        name: what to call it in messages.
        formats: the formats to try, by Pillow's names; None for all it knows.

    Raises:
        SoftDecodeError: no such file, or not a whole picture.
    """
    try:
        with Image.open(file, formats=formats) as opened:
            return upright(opened)
    except UnidentifiedImageError as error:
        raise SoftDecodeError(f"{name} is not a picture that can be read; expected PNG, JPEG or WebP") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged byte leads them to
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise SoftDecodeError(f"cannot read the picture {name}: {reason}") from error


def upright(image: Image.Image) -> Image.Image:
    """A picture turned by its EXIF orientation, 8 bits a channel, RGB, or RGBA where it has transparency."""
    image = _eight_bit(ImageOps.exif_transpose(image))
    # Opaque pictures stay without alpha, which resizing would have to multiply in and out.
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def resize_and_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize the short side to `size` (height, width), bicubic, and crop the centre, as is usual for ImageNet."""
    height, width = size
    scale = max(width / image.width, height / image.height)
    resized = image.resize(
        (max(width, round(image.width * scale)), max(height, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pictures of 16 bits a pixel, which Pillow would clip to white, scaled to 8 bits."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8))


def _on_white(rgba: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture atomically; the suffix chooses the format."""
    with atomic_path(path) as temporary:
        image.save(temporary)
