"""Opening Hugging Face datasets, and finding out which content they are."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from softdecode.data.sources.digests import digest_files
from softdecode.errors import SoftDecodeError

_CAPTIONS = ("caption", "text", "prompt")


@dataclass(frozen=True, kw_only=True)
class HubName:
    """What `NAME[@REVISION][#SPLIT]` says: a dataset's hub id or local path, its revision and its split."""

    name: str
    revision: str | None
    split: str

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """Read the form; a path that exists is taken as it is, whatever signs are in it.

        Raises:
            SoftDecodeError: no name.
        """
        name, split = (text, "") if _exists(text) or "#" not in text else text.rsplit("#", 1)
        revision = None
        if not _exists(name):
            name, _, revision = name.partition("@")
        if not name:
            raise SoftDecodeError(f"hf:{text} names no dataset; expected hf:owner/name[@revision][#split]")
        return cls(name=name, revision=revision or None, split=split or "train")

    @property
    def path(self) -> Path | None:
        """The local file or folder; None for a dataset of the hub."""
        path = Path(self.name).expanduser()
        return path if _exists(self.name) else None


def _exists(name: str) -> bool:
    return bool(name) and Path(name).expanduser().exists()


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a dataset has its pictures and captions; `classes` are the class names if the captions are classes."""

    image: str
    caption: str | None
    classes: list[str] | None


def open_dataset(wanted: HubName, *, streaming: bool) -> tuple[Any, str | None]:
    """Open a dataset: the library's dataset, and the commit that it is of (None for a local one).

    A hub dataset is opened at the commit that its revision means now, so that the content cannot change on the way.

    Raises:
        SoftDecodeError: datasets is not installed, or there is no such dataset, revision or split.
    """
    try:
        import datasets
    except ImportError as error:
        raise SoftDecodeError("Hugging Face datasets need the datasets library; install softdecode[train]") from error
    path, commit = wanted.path, None
    if path is None:
        commit = _commit(wanted)
    elif wanted.revision:
        raise SoftDecodeError(f"{path} is local and has no revision {wanted.revision}; leave it out")
    try:
        if (
            path is not None
            and path.is_dir()
            and any((path / n).is_file() for n in ("state.json", "dataset_dict.json"))
        ):
            return _saved(datasets, path, wanted.split, streaming), None
        options = {"split": wanted.split, "streaming": streaming}
        if path is None:
            return datasets.load_dataset(wanted.name, revision=commit, **options), commit
        if path.is_file():
            files = {wanted.split.partition("[")[0]: [str(path)]}
            return datasets.load_dataset("parquet", data_files=files, **options), None
        return datasets.load_dataset(str(path), **options), None
    except SoftDecodeError:
        raise
    except Exception as error:  # the library lets everything through that its file systems and formats raise
        raise SoftDecodeError(
            f"cannot open the dataset {wanted.name}, split {wanted.split}: {reason_of(error)}"
        ) from error


def content_of(wanted: HubName, commit: str | None, columns: Columns, cache: Path, threads: int) -> str:
    """A hash that names the content: the commit, or all files of a local dataset, with split and columns."""
    path = wanted.path
    if path is None:
        where = f"{wanted.name} {commit}"
    elif path.is_file():
        where = digest_files(path.parent, [path.name], cache, threads=threads)
    else:
        files = (found for found in path.rglob("*") if found.is_file() and not _is_by_product(found.name))
        names = sorted(found.relative_to(path).as_posix() for found in files)
        where = digest_files(path, names, cache, threads=threads)
    parts = [where, wanted.split, columns.image, str(columns.caption)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def find_columns(features: Any, image: str | None, caption: str | None) -> Columns:
    """The columns of pictures and captions, as named, or by their types.

    Without a name, the pictures are the only column of type Image. The captions are the column "caption", "text" or
    "prompt", whichever comes first, or else the only column of strings, or else there are none. A column of classes,
    if named, gives the class names.

    Raises:
        SoftDecodeError: a named column is missing or of another type, or no single column of pictures is found.
    """
    from datasets import ClassLabel, Image, Value

    there = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    pictures = [name for name, feature in features.items() if isinstance(feature, Image)]
    texts = [n for n, f in features.items() if isinstance(f, Value) and f.dtype in ("string", "large_string")]
    if image is None and len(pictures) != 1:
        raise SoftDecodeError(f"the dataset has {len(pictures)} columns of pictures, name one of: {there}")
    if image is not None and image not in pictures:
        raise SoftDecodeError(f"the dataset has no column of pictures called {image}; it has {there}")
    classes = None
    if caption is None:
        named = [name for name in _CAPTIONS if name in texts]
        caption = (named or (texts if len(texts) == 1 else [None]))[0]
    elif isinstance(features.get(caption), ClassLabel):
        classes = features[caption].names
    elif caption not in texts:
        raise SoftDecodeError(f"the dataset has no column of text or classes called {caption}; it has {there}")
    return Columns(image=image or pictures[0], caption=caption, classes=classes)


def _is_by_product(name: str) -> bool:
    """Whether the library, or the system, puts such a file beside the data on the way."""
    return name.startswith(".") or name.endswith(".lock") or (name.startswith("cache-") and name.endswith(".arrow"))


def reason_of(error: BaseException) -> str:
    """The first line of what an error came from: the library's own are often only "an error occurred"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _saved(datasets: Any, path: Path, split: str, streaming: bool) -> Any:
    """A dataset written by `save_to_disk`, which is one split or a folder of them."""
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise SoftDecodeError(f"{path} has no split {split}; it has {', '.join(found)}")
        found = found[split]
    elif found.split is not None and str(found.split) != split:
        raise SoftDecodeError(f"{path} is the split {found.split}, not {split}; write it as hf:{path}#{found.split}")
    return found.to_iterable_dataset() if streaming else found


def _commit(wanted: HubName) -> str:
    if wanted.revision and re.fullmatch(r"[0-9a-f]{40}", wanted.revision):
        return wanted.revision
    try:
        commit = HfApi().dataset_info(wanted.name, revision=wanted.revision).sha
    except Exception as error:  # not found, not allowed, not connected: each of several libraries' errors
        raise SoftDecodeError(
            f"there is no local path {wanted.name}, and the hub does not say which commit {wanted.name}@"
            f"{wanted.revision or 'main'} is ({reason_of(error)}); check the name, or give the commit as the revision"
        ) from error
    if commit is None:
        raise SoftDecodeError(f"the hub names no commit of {wanted.name}; give one as the revision")
    return commit
