"""Pictures in a folder and the folders below it."""

import hashlib
import os
from pathlib import Path
from typing import Literal

from softdecode.data.sources.digests import digest_files
from softdecode.data.sources.picture import PictureTransform
from softdecode.data.sources.source import NumberedSource, Record
from softdecode.errors import SoftDecodeError

CaptionFrom = Literal["text", "folder"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class FolderSource(NumberedSource):
    """Every png, jpg, jpeg and webp file below a folder, by relative path.

    The caption of `NAME.jpg` is the text of `NAME.txt` beside it, where there is one; or the name of the folder that
    it lies in. Names that begin with a dot are passed over. Links are followed.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: PictureTransform,
        *,
        cache: Path,
        caption_from: CaptionFrom = "text",
        threads: int = 1,
    ) -> None:
        """List the folder.

        Args:
            root: the folder.
            transform: from files to pixels.
            cache: folder where digests of files are remembered.
            caption_from: "text" for `NAME.txt`, "folder" for the name of the folder that a picture lies in (those
                directly in `root` have none).
            threads: how many pictures are decoded at once.

        Raises:
            SoftDecodeError: no such folder, a folder that links to itself, or no picture in it.
        """
        super().__init__(transform, threads=threads)
        self.root = Path(root)
        self.caption_from = caption_from
        self._cache = cache
        files = _files_below(self.root)
        self._names = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
        beside = {_text_beside(name) for name in self._names} if caption_from == "text" else set()
        self._texts = beside.intersection(files)
        if not self._names:
            raise SoftDecodeError(f"{self.root} holds no picture; expected {', '.join(SUFFIXES)} files in it or below")

    def __len__(self) -> int:
        return len(self._names)

    def content(self) -> str:
        names = sorted({*self._names, *self._texts})
        files = digest_files(self.root, names, self._cache, threads=self.threads)
        return hashlib.sha256(f"folder {self.caption_from} {files}".encode()).hexdigest()

    def record(self, number: int) -> Record:
        name = self._names[number]
        return Record(key=name, read=lambda: ((self.root / name).read_bytes(), self._caption(name)))

    def _caption(self, name: str) -> str | None:
        if self.caption_from == "folder":
            return Path(name).parent.name or None
        text = _text_beside(name)
        if text not in self._texts:
            return None
        try:
            return (self.root / text).read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise SoftDecodeError(f"the caption {text} is not UTF-8 text ({error})") from error


def _text_beside(name: str) -> str:
    return Path(name).with_suffix(".txt").as_posix()


def _files_below(root: Path) -> list[str]:
    """Relative paths of all files below a folder, sorted."""
    if not root.is_dir():
        raise SoftDecodeError(f"{root} is not a folder of pictures")

    def refuse(error: OSError) -> None:
        raise SoftDecodeError(f"cannot list {error.filename}: {error.strerror}") from error

    names: list[str] = []
    visited: set[Path] = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=refuse):
        real = Path(folder).resolve()
        if real in visited:
            raise SoftDecodeError(f"{folder} is also elsewhere below {root}, by a link; remove the link")
        visited.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
        relative = Path(folder).relative_to(root)
        names += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(names)
