"""Training pictures of a folder, held in memory."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.files import tensor_sha256
from softdecode.images import read_image, to_uint8

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True)
class FolderPictures:
    """Pictures of one size.

    Attributes:
        images: [M, 3, H, W] uint8.
        digest: SHA-256 of the images.
    """

    images: Tensor
    digest: str


def read_pictures(folder: Path, size: tuple[int, int], limit: int | None = None) -> FolderPictures:
    """Read the pictures below a folder, sorted by path, resized and cropped to `size` (height, width).

    Args:
        folder: searched with its subfolders.
        size: what the model takes.
        limit: read the first so many only.

    Raises:
        SoftDecodeError: no folder, no pictures in it, or one that cannot be read.
    """
    if not folder.is_dir():
        raise SoftDecodeError(f"there is no folder {folder}; expected one with training pictures")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())[:limit]
    if not paths:
        raise SoftDecodeError(f"{folder} holds no pictures; expected {', '.join(_SUFFIXES)} files")
    images = torch.cat([to_uint8(read_image(path, size, resize=True)[None]) for path in paths])
    return FolderPictures(images=images, digest=tensor_sha256(images))
