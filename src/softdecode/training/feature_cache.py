"""Features computed once: safetensors shards in a folder named after everything that went into them.

A changed picture, caption, transform, augmentation, model or setting has another name, so old features are never read
for new ones. Shards are written whole or not at all, so an interrupted run goes on where it stopped.
"""

import bisect
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from softdecode.data.picture_sets import PictureBatch, PictureSet
from softdecode.errors import SoftDecodeError
from softdecode.files import write_json, write_tensors
from softdecode.progress import Progress
from softdecode.seeds import generator_for
from softdecode.training.augment import Augmentation, augmented
from softdecode.training.encoding import FeatureEncoder
from softdecode.training.features import Features, IndexedRows

SHARD_PICTURES = 1024
_BATCH = 32  # pictures encoded at a time; changes nothing but memory and speed


class FeatureCache(IndexedRows):
    """Rows of a whole cache folder, read from disk as they are asked for.

    Args:
        folder: as `build_cache` filled it.
        shards: its files, in order.

    Raises:
        SoftDecodeError: a damaged shard.
    """

    def __init__(self, folder: Path, shards: Sequence[str]) -> None:
        self.folder = folder
        self._files: list[Any] = []
        self.keys: list[str] = []
        self.identity = folder.name
        ends = []
        for name in shards:
            try:
                file = safe_open(folder / name, framework="pt")
                self.keys += json.loads(file.metadata()["keys"])
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                raise SoftDecodeError(
                    f"{folder / name} is damaged ({error}); delete it, and it is made anew"
                ) from error
            self._files.append(file)
            ends.append(len(self.keys))
        self._starts = [0, *ends[:-1]]

    def __len__(self) -> int:
        return len(self.keys)

    def names(self, indices: Tensor) -> list[str]:
        return [self.keys[index] for index in indices.tolist()]

    def rows(self, indices: Tensor, generators: Sequence[torch.Generator] = ()) -> Features:
        picked: dict[str, list[Tensor]] = {}
        for index in indices.tolist():
            shard = bisect.bisect_right(self._starts, index) - 1
            place = index - self._starts[shard]
            file = self._files[shard]
            for name in file.keys():  # noqa: SIM118 (not a dict)
                picked.setdefault(name, []).append(file.get_slice(name)[place : place + 1])
        return Features(**{name: torch.cat(parts) for name, parts in picked.items()})


def build_cache(
    root: Path,
    pictures: PictureSet,
    encoder: FeatureEncoder,
    *,
    augmentation: Augmentation = "none",
    views: int = 1,
    seed: int = 0,
    process: int = 0,
    processes: int = 1,
    on_progress: Progress | None = None,
) -> FeatureCache | None:
    """Encode each picture in several augmented views, as far as that was not done before.

    Args:
        root: folder of all caches.
        pictures: what to encode.
        encoder: the frozen models.
        augmentation: of every view but the first, which is the picture itself.
        views: of each picture, >= 1.
        seed: of augmentation and corruption.
        process, processes: this process encodes every so-manyth shard; when all are done, any of them opens the cache.
        on_progress: called with ("features", pictures done, pictures in total).

    Returns:
        The cache, views·M rows: row v·M + i is view v of picture i. None where shards of other processes are missing.

    Raises:
        SoftDecodeError: views < 1, no picture that can be read, or a folder that cannot be written to.
    """
    if views < 1:
        raise SoftDecodeError(f"--views must be at least 1, got {views}")
    identity = {
        "pictures": pictures.digest,
        "count": len(pictures),
        "encoder": encoder.identity(),
        "augmentation": augmentation if views > 1 else "none",
        "views": views,
        "seed": seed,
        "shard_pictures": SHARD_PICTURES,
    }
    folder = root / f"features-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]}"
    if not (folder / "identity.json").is_file():
        write_json(folder / "identity.json", identity)
    total, names = len(pictures), []
    for number, (view, start) in enumerate(itertools.product(range(views), range(0, total, SHARD_PICTURES))):
        names.append(f"view{view}-{start:09d}.safetensors")
        stop = min(start + SHARD_PICTURES, total)
        if number % processes == process and not (folder / names[-1]).is_file():
            kind: Augmentation = augmentation if view else "none"
            _write_shard(folder / names[-1], pictures.read(start, stop), encoder, kind, f"{seed}/{view}")
        if on_progress is not None:
            on_progress("features", view * total + stop, views * total)
    if not all((folder / name).is_file() for name in names):
        return None
    cache = FeatureCache(folder, names)
    if not len(cache):
        raise SoftDecodeError("none of the training pictures can be read")
    return cache


def _write_shard(
    path: Path, pictures: PictureBatch, encoder: FeatureEncoder, augmentation: Augmentation, stream: str
) -> None:
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(pictures), _BATCH):
        part = pictures[start : start + _BATCH]
        generators = [generator_for("view", stream, key) for key in part.keys]
        images = augmented(part.images, augmentation, generators)
        parts.append(encoder.encode(images, part.captions, generators).named())
    tensors = {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else {})}
    write_tensors(path, tensors, {"keys": json.dumps(list(pictures.keys))})
