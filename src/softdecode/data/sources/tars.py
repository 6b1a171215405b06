"""Pictures in webdataset tars."""

import bisect
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from softdecode.data.sources.digests import digest_files
from softdecode.data.sources.picture import PictureTransform
from softdecode.data.sources.record import Block, Record
from softdecode.data.sources.source import PictureSource, share_of
from softdecode.data.sources.tar_index import TarSample, index_tar, tar_record
from softdecode.errors import SoftDecodeError
from softdecode.seeds import generator_for


class TarSource(PictureSource):
    """The samples of webdataset shards: `KEY.jpg` (or jpeg, png, webp) with `KEY.txt`, or "caption" in `KEY.json`.

    The stream draws shards again and again (resampling): each block is `shards_at_once` different shards, their
    samples shuffled together and divided among the processes. With no more shards than that, a block is an epoch.
    Only the places of the samples are held in memory, not the samples.
    """

    def __init__(
        self,
        shards: str | Sequence[str | os.PathLike[str]],
        transform: PictureTransform,
        *,
        cache: Path,
        shards_at_once: int = 8,
        threads: int = 1,
    ) -> None:
        """Find the shards.

        Args:
            shards: a path or brace pattern (`train-{000..127}.tar`), a folder of tars, or paths.
            transform: from files to pixels.
            cache: folder where digests of files are remembered.
            shards_at_once: how many shards are shuffled together, 1 or more.
            threads: how many pictures are decoded at once.

        Raises:
            SoftDecodeError: a shard is no local file, or missing; or the first one is damaged or empty.
        """
        super().__init__(transform, threads=threads)
        if shards_at_once < 1:
            raise SoftDecodeError(f"{shards_at_once} shards at once were asked for; expected 1 or more")
        self.shards = find_shards(shards)
        self.shards_at_once = min(shards_at_once, len(self.shards))
        self.shuffling = {"shards_at_once": self.shards_at_once}
        self._cache = cache
        self._index = lru_cache(maxsize=2 * self.shards_at_once)(index_tar)
        self._counts: dict[Path, int] = {}
        if not any(self._count(shard) for shard in self.shards):
            raise SoftDecodeError(f"the {len(self.shards)} tars at {shards} hold no sample")

    def __len__(self) -> int:
        return sum(self._count(shard) for shard in self.shards)

    def content(self) -> str:
        root = Path(os.path.commonpath([shard.parent for shard in self.shards]))
        names = [shard.relative_to(root).as_posix() for shard in self.shards]
        return hashlib.sha256(
            f"tars {digest_files(root, names, self._cache, threads=self.threads)}".encode()
        ).hexdigest()

    def records(self, start: int = 0) -> Iterator[Record]:
        for shard in self.shards:
            if start < self._count(shard):
                yield from (tar_record(shard, sample) for sample in self._index(shard)[start:])
            start = max(0, start - self._count(shard))

    def blocks(self, cursor: dict[str, Any] | None, *, seed: int, rank: int, world: int) -> Iterator[Block]:
        number, before = (cursor["block"], cursor["before"]) if cursor else (0, 0)
        while True:
            generator = generator_for("shards", seed, number)
            drawn = torch.randperm(len(self.shards), generator=generator)[: self.shards_at_once].tolist()
            joined = _Joined([self.shards[i] for i in drawn], [self._samples(self.shards[i]) for i in drawn])
            order = torch.randperm(len(joined), generator=generator)
            share = share_of(order, before=before, rank=rank, world=world)
            yield Block(cursor={"block": number, "before": before}, order=share, record=joined.record)
            number, before = number + 1, before + len(joined)

    def _samples(self, shard: Path) -> list[TarSample]:
        samples = self._index(shard)
        self._counts[shard] = len(samples)
        return samples

    def _count(self, shard: Path) -> int:
        return self._counts[shard] if shard in self._counts else len(self._samples(shard))


class _Joined:
    """The samples of several shards, numbered through."""

    def __init__(self, shards: list[Path], samples: list[list[TarSample]]) -> None:
        self._shards, self._samples = shards, samples
        self._ends = list(accumulate(len(part) for part in samples))

    def __len__(self) -> int:
        return self._ends[-1]

    def record(self, number: int) -> Record:
        part = bisect.bisect_right(self._ends, number)
        samples = self._samples[part]
        return tar_record(self._shards[part], samples[number - self._ends[part] + len(samples)])


def find_shards(shards: str | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Paths of the shards that a path, brace pattern, folder or list names, in order.

    Raises:
        SoftDecodeError: one of them is missing, named twice or not a local file.
    """
    if isinstance(shards, str) and Path(shards).is_dir():
        found = sorted(Path(shards).glob("*.tar"))
        if not found:
            raise SoftDecodeError(f"the folder {shards} holds no .tar file")
        return [path.absolute() for path in found]
    names = _expand(shards) if isinstance(shards, str) else [os.fspath(shard) for shard in shards]
    for name in names:
        if name.startswith("pipe:"):
            raise SoftDecodeError(f"{name} would run a shell command; name tar files, and fetch them first")
        if "://" in name:
            raise SoftDecodeError(f"{name} is not a local file; fetch the tars first, or read the set with hf-stream:")
        if not Path(name).is_file():
            raise SoftDecodeError(f"there is no tar file {name}")
    if not names or len(set(names)) < len(names):
        raise SoftDecodeError(f"{shards} names {'no tar' if not names else 'a tar twice'}; expected each once")
    return [Path(name).absolute() for name in names]


def _expand(pattern: str) -> list[str]:
    """Expand the braces of a pattern, as the webdataset library does."""
    if "{" not in pattern:
        return [pattern]
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise SoftDecodeError("brace patterns need webdataset; install softdecode[train]") from error
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise SoftDecodeError(f"the pattern {pattern} cannot be expanded: {error}") from error
