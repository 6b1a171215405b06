"""One line of text to a source of pictures."""

import os
from pathlib import Path

from softdecode.data.sources.folder import SUFFIXES, CaptionFrom, FolderSource
from softdecode.data.sources.hub import HubSource, HubStreamSource
from softdecode.data.sources.picture import PictureTransform
from softdecode.data.sources.source import PictureSource
from softdecode.data.sources.tars import TarSource
from softdecode.errors import SoftDecodeError

DEFAULT_CACHE = Path("~/.cache/softdecode/sources")
FORMS = (
    "a folder of pictures; a .tar file, a brace pattern such as train-{000..127}.tar, or a folder of .tar files; "
    "hf:NAME[@REVISION][#SPLIT] or hf-stream:NAME[@REVISION][#SPLIT], where NAME is a hub id or a local path"
)


def open_source(
    spec: str,
    *,
    transform: PictureTransform,
    caption_column: str | None = None,
    image_column: str | None = None,
    caption_from: CaptionFrom = "text",
    cache: Path = DEFAULT_CACHE,
    threads: int = 1,
) -> PictureSource:
    """Open a source of pictures.

    Args:
        spec: one of `FORMS`.
        transform: from files to pixels.
        caption_column, image_column: of a Hugging Face dataset; without them they are found by name and type.
        caption_from: where captions of a folder come from: "text" for `NAME.txt` beside `NAME.jpg`, "folder" for the
            name of the folder that a picture lies in.
        cache: folder where digests of files are remembered.
        threads: how many pictures are decoded at once.

    Raises:
        SoftDecodeError: none of the forms, nothing there, or an option that this form does not have.
    """
    kind, _, name = spec.partition(":")
    cache = cache.expanduser()
    if kind in ("hf", "hf-stream"):
        _refuse(spec, {"caption_from": caption_from != "text"})
        source = HubSource if kind == "hf" else HubStreamSource
        return source(
            name,
            transform,
            cache=cache,
            image_column=image_column,
            caption_column=caption_column,
            threads=threads,
        )
    _refuse(spec, {"caption_column": caption_column is not None, "image_column": image_column is not None})
    expanded = os.path.expanduser(spec)
    path = Path(expanded)
    if kind == "pipe" or spec.endswith(".tar") or (spec and path.is_dir() and is_tar_folder(path)):
        _refuse(spec, {"caption_from": caption_from != "text"})
        return TarSource(expanded, transform, cache=cache, threads=threads)
    if spec and path.is_dir():
        return FolderSource(path, transform, cache=cache, caption_from=caption_from, threads=threads)
    raise SoftDecodeError(f"{spec!r} is no source of pictures; expected {FORMS}")


def _refuse(spec: str, given: dict[str, bool]) -> None:
    """Refuse options that would change nothing."""
    useless = [name for name, is_given in given.items() if is_given]
    if useless:
        raise SoftDecodeError(f"{spec} is a source without {' and '.join(useless)}; leave that out")


def is_tar_folder(path: Path) -> bool:
    """Whether a folder is one of tars rather than pictures.

    Raises:
        SoftDecodeError: it is both, or a Hugging Face dataset.
    """
    names = [found.name.lower() for found in path.iterdir()]
    if {"state.json", "dataset_dict.json"} & set(names) or any(name.endswith(".parquet") for name in names):
        raise SoftDecodeError(f"{path} is a Hugging Face dataset; name it as hf:{path}")
    tars = any(name.endswith(".tar") for name in names)
    if tars and any(name.endswith(SUFFIXES) for name in names):
        raise SoftDecodeError(f"{path} holds pictures beside .tar files; name the tars by a pattern, or move them away")
    return tars
