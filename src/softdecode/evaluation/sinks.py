"""Where a row's pictures go besides being measured: PNG files, or .npz files as ADM's evaluation takes them."""

import shutil
import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.processes import Processes
from softdecode.files import atomic_path, listing
from softdecode.images import save_image, to_pil


class PictureSink(Protocol):
    """Takes every row's pictures as they are made. Processes that share the work write to one file system."""

    def write(self, row: str, start: int, images: Tensor) -> None:
        """Pictures [b, 3, H, W] uint8 of a row, the first of which has the place `start`; each part once."""
        ...

    def finish(self, processes: Processes) -> None:
        """All is written on this process."""
        ...


class PngFolder:
    """Pictures as FOLDER/ROW/000000.png, numbered by their places.

    Raises:
        SoftDecodeError: the folder holds something already, which pictures of this run would be mixed with.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder = folder
        if processes.main and folder.is_dir() and any(folder.iterdir()):
            raise SoftDecodeError(f"{folder} holds {listing(folder)}; choose an empty folder for this run's pictures")
        processes.wait()

    def write(self, row: str, start: int, images: Tensor) -> None:
        for place, picture in enumerate(to_pil(images), start):
            save_image(picture, self._folder / row / f"{place:06d}.png")

    def finish(self, processes: Processes) -> None:
        """Nothing is left to do."""
        del processes


class NpzFiles:
    """Each row's pictures as FOLDER/ROW.npz with `arr_0`, uint8 [N, H, W, 3], as ADM's (guided-diffusion's) evaluator
    takes them.

    Pixels are appended to a file for each process, and streamed from there into the archive, so that memory does not
    depend on their number; the disk holds them twice for a moment.

    Args:
        folder: for the results.
        processes: of which this is one.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder = folder
        self._parts = folder / ".parts"
        self._rank = processes.rank
        self._shapes: dict[str, tuple[int, int]] = {}
        if processes.main:  # what an interrupted run left
            shutil.rmtree(self._parts, ignore_errors=True)
        processes.wait()

    def write(self, row: str, start: int, images: Tensor) -> None:
        del start  # a process's parts come in order
        height, width = images.shape[2:]
        mode = "ab" if row in self._shapes else "wb"
        if self._shapes.setdefault(row, (height, width)) != (height, width):
            raise SoftDecodeError(f"the pictures of {row} differ in size; an .npz file needs equal ones")
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            with self._part(row, self._rank).open(mode) as file:
                file.write(pixels.data)
        except OSError as error:
            raise SoftDecodeError(f"cannot write to {self._folder}: {error.strerror or error}") from error

    def finish(self, processes: Processes) -> None:
        processes.wait()
        if processes.main:
            for row, size in self._shapes.items():
                files = [self._part(row, rank) for rank in range(processes.size)]
                write_npz(self._folder / f"{row}.npz", [file for file in files if file.exists()], size)
            shutil.rmtree(self._parts, ignore_errors=True)

    def _part(self, row: str, rank: int) -> Path:
        return self._parts / f"{row}-{rank}.raw"


def write_npz(path: Path, parts: list[Path], size: tuple[int, int]) -> None:
    """Join files of raw pixels, each picture H·W·3 bytes, to the array `arr_0` of an .npz file.

    Raises:
        SoftDecodeError: it cannot be written.
    """
    height, width = size
    count = sum(part.stat().st_size for part in parts) // (height * width * 3)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False}
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as entry,
    ):
        np.lib.format.write_array_header_1_0(entry, {**header, "shape": (count, height, width, 3)})
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, entry, 1 << 20)
