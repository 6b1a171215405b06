"""Picture sets as others publish them: a folder of image files, or an .npz file as ADM's evaluator takes it."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.metrics import FeatureStatistics
from softdecode.files import file_sha256, listing
from softdecode.images import open_picture, resize_and_crop, to_pixels

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class FolderSet:
    """Picture files, read when asked for.

    Args:
        origin: the folder that they are in.
        files: their names to paths.
        size: (height, width) that they shall have.
        resize: bring others to `size`: the short side is resized (bicubic), then the centre is cropped; else others
            are refused.
    """

    def __init__(self, origin: Path, files: Mapping[str, Path], size: tuple[int, int], *, resize: bool) -> None:
        self.origin = origin
        self.size = size
        self._files = dict(files)
        self._resize = resize

    @property
    def names(self) -> list[str]:
        """Paths below the folder, without suffix, in the order of the pictures."""
        return list(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, part: slice, /) -> Tensor:
        """[b, 3, H, W] uint8.

        Raises:
            SoftDecodeError: a file is no picture, or of another size.
        """
        return torch.stack([self._read(file) for file in list(self._files.values())[part]])

    def subset(self, names: Sequence[str]) -> "FolderSet":
        """The pictures of some names, in this order."""
        return FolderSet(self.origin, {name: self._files[name] for name in names}, self.size, resize=self._resize)

    def digest(self) -> str:
        """SHA-256 of all names and contents."""
        total = hashlib.sha256()
        for name, file in self._files.items():
            total.update(f"{name} {file_sha256(file)}\n".encode())
        return total.hexdigest()

    def _read(self, file: Path) -> Tensor:
        image = open_picture(file, str(file))
        if self._resize:
            image = resize_and_crop(image, self.size)
        if (image.height, image.width) != self.size:
            raise SoftDecodeError(
                f"{file} is {image.width}×{image.height} pixels, others are {self.size[1]}×{self.size[0]}; "
                "say what to do with --resize"
            )
        return to_pixels(image)


def read_folder(folder: Path, resize: int | None = None) -> FolderSet:
    """The picture files of a folder and its sub-folders, in the order of their names.

    Args:
        folder: where they are.
        resize: side of the square that they are brought to; all must have the size of the first where None.

    Raises:
        SoftDecodeError: the folder is missing or holds no picture, or two pictures have one name.
    """
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")) if folder.is_dir() else []:
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if hidden or file.suffix.lower() not in _SUFFIXES or not file.is_file():
            continue
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise SoftDecodeError(f"{folder} holds two pictures called {name}; keep one of them")
        files[name] = file
    if not files:
        raise SoftDecodeError(f"no picture in {folder} (it holds {listing(folder)}); expected PNG, JPEG, WebP or BMP")
    files = dict(sorted(files.items()))
    if resize is not None:
        return FolderSet(folder, files, (resize, resize), resize=True)
    file = next(iter(files.values()))
    first = open_picture(file, str(file))
    return FolderSet(folder, files, (first.height, first.width), resize=False)


class NpzSet:
    """The array `arr_0`, uint8 [N, H, W, 3], of an .npz file.

    Uncompressed files, as ADM's are, stay on the disk; compressed ones are read as a whole.

    Attributes:
        origin: the file.
        statistics: `mu` and `sigma`, where the file has them. In ADM's reference files they are of Inception's features
            of the whole set, and `arr_0` is 10,000 of its pictures, which published FIDs do not look at.

    Raises:
        SoftDecodeError: the file is missing, damaged, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.origin = path
        try:
            pixels = _array(path)
            self.statistics = _statistics(path)
        except OSError as error:
            raise SoftDecodeError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise SoftDecodeError(f"{path} is damaged, or no .npz file with pictures as arr_0: {error}") from error
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not pixels.size:
            raise SoftDecodeError(f"{path}: arr_0 is {pixels.dtype} {list(pixels.shape)}, expected uint8 [N, H, W, 3]")
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, part: slice, /) -> Tensor:
        return torch.from_numpy(self._pixels[part].copy()).permute(0, 3, 1, 2).contiguous()

    @property
    def size(self) -> tuple[int, int]:
        return self._pixels.shape[1], self._pixels.shape[2]

    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_sha256(self.origin)


ImageSet = FolderSet | NpzSet


def open_image_set(path: Path, resize: int | None = None) -> ImageSet:
    """A folder or an .npz file as a picture set.

    Raises:
        SoftDecodeError: it is neither, or an .npz file is to be resized to another size than its own.
    """
    if path.suffix == ".npz":
        pictures = NpzSet(path)
        if resize is not None and pictures.size != (resize, resize):
            height, width = pictures.size
            raise SoftDecodeError(
                f"{path} holds {width}×{height} pixels, and .npz files are not resized; leave --resize"
            )
        return pictures
    return read_folder(path, resize)


def _array(path: Path) -> np.ndarray:
    """`arr_0`, mapped from the disk where it is stored without compression."""
    with zipfile.ZipFile(path) as archive:
        if "arr_0.npy" not in archive.namelist():
            raise KeyError(f"it holds {', '.join(archive.namelist()) or 'nothing'}")
        entry = archive.getinfo("arr_0.npy")
        if entry.compress_type == zipfile.ZIP_STORED:
            return _mapped(path, entry)
        with archive.open(entry) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _statistics(path: Path) -> FeatureStatistics | None:
    with np.load(path, allow_pickle=False) as content:
        if not {"mu", "sigma"} <= set(content.files):
            return None
        mean, covariance = (torch.from_numpy(np.asarray(content[name], np.float64)) for name in ("mu", "sigma"))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"mu and sigma are {list(mean.shape)} and {list(covariance.shape)}")
    return FeatureStatistics(mean=mean, covariance=covariance)


def _mapped(path: Path, entry: zipfile.ZipInfo) -> np.ndarray:
    with path.open("rb") as file:
        # The entry's own header: 30 bytes, the last four of which are the lengths of name and extra field.
        file.seek(entry.header_offset + 26)
        name, extra = np.frombuffer(file.read(4), dtype="<u2").tolist()
        file.seek(entry.header_offset + 30 + name + extra)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if fortran or dtype.hasobject:
            raise ValueError("arr_0 is not a plain array in C order")
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
