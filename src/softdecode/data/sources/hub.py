"""Pictures in Hugging Face datasets, local or streamed."""

import copy
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from softdecode.data.sources.hub_open import Columns, HubName, content_of, find_columns, open_dataset, reason_of
from softdecode.data.sources.picture import PictureTransform
from softdecode.data.sources.record import Block, Record
from softdecode.data.sources.source import NumberedSource, PictureSource
from softdecode.errors import SoftDecodeError
from softdecode.seeds import generator_for


class HubSource(NumberedSource):
    """A dataset that lies on this machine, after a download where it comes from the hub."""

    def __init__(
        self,
        name: str,
        transform: PictureTransform,
        *,
        cache: Path,
        image_column: str | None = None,
        caption_column: str | None = None,
        threads: int = 1,
    ) -> None:
        """Open the dataset.

        Args:
            name: `NAME[@REVISION][#SPLIT]`: a hub id, a parquet file, or a folder (of parquet files, or written by
                `save_to_disk`). The split is "train" unless given.
            transform: from files to pixels.
            cache: folder where digests of files are remembered.
            image_column, caption_column: see `find_columns`.
            threads: how many pictures are decoded at once.

        Raises:
            SoftDecodeError: no such dataset, split or columns, or no example.
        """
        super().__init__(transform, threads=threads)
        self._wanted = HubName.parse(name)
        self._cache = cache
        dataset, self._commit = open_dataset(self._wanted, streaming=False)
        self.columns = find_columns(dataset.features, image_column, caption_column)
        self._dataset = _undecoded(dataset, self.columns)
        if not len(self._dataset):
            raise SoftDecodeError(f"the dataset {name} has no example")

    def __len__(self) -> int:
        return len(self._dataset)

    def content(self) -> str:
        return content_of(self._wanted, self._commit, self.columns, self._cache, self.threads)

    def record(self, number: int) -> Record:
        return Record(
            key=f"{self._wanted.split}/{number}", read=lambda: picture_of(self._dataset[number], self.columns)
        )


class HubStreamSource(PictureSource):
    """A dataset that is read through as it arrives, never wholly on this machine.

    A block of its stream is some consecutive examples, shuffled; the examples come in stored order, and each process
    gets a part of the dataset. The number of examples is not known.
    """

    def __init__(
        self,
        name: str,
        transform: PictureTransform,
        *,
        cache: Path,
        image_column: str | None = None,
        caption_column: str | None = None,
        block_size: int = 1024,
        threads: int = 1,
    ) -> None:
        """Open the dataset; see `HubSource`.

        Args:
            block_size: how many consecutive examples are shuffled together, held in memory undecoded; 1 or more.
        """
        super().__init__(transform, threads=threads)
        if block_size < 1:
            raise SoftDecodeError(f"blocks of {block_size} examples were asked for; expected 1 or more")
        self._wanted = HubName.parse(name)
        self._cache, self.block_size = cache, block_size
        self.shuffling = {"block_size": block_size}
        dataset, self._commit = open_dataset(self._wanted, streaming=True)
        if dataset.features is None:
            raise SoftDecodeError(f"the dataset {name} does not say what its columns are; read it with hf: instead")
        self.columns = find_columns(dataset.features, image_column, caption_column)
        self._dataset = _undecoded(dataset, self.columns)
        if next(self.records(), None) is None:
            raise SoftDecodeError(f"the dataset {name} has no example")

    def content(self) -> str:
        return content_of(self._wanted, self._commit, self.columns, self._cache, self.threads)

    def records(self, start: int = 0) -> Iterator[Record]:
        dataset = copy.deepcopy(self._dataset)
        rest = dataset.skip(start) if start else dataset
        for number, example in enumerate(_examples(rest, self._wanted.name), start):
            yield self._record(f"{self._wanted.split}/{number}", example)

    def blocks(self, cursor: dict[str, Any] | None, *, seed: int, rank: int, world: int) -> Iterator[Block]:
        from datasets.distributed import split_dataset_by_node

        cursor = cursor or _start_of(0)
        part_of = f"{self._wanted.split}/" if world == 1 else f"{self._wanted.split}/part-{rank}-of-{world}/"
        while True:
            # A copy, since the library keeps an iteration's state inside the dataset.
            part = split_dataset_by_node(copy.deepcopy(self._dataset), rank, world)
            if cursor["state"] is not None:
                part.load_state_dict(cursor["state"])
            examples = _examples(part, self._wanted.name)
            while taken := list(islice(examples, self.block_size)):
                state, before = part.state_dict(), cursor["before"]
                records = [self._record(f"{part_of}{before + i}", example) for i, example in enumerate(taken)]
                generator = generator_for("examples", seed, rank, world, cursor["epoch"], before)
                order = torch.randperm(len(records), generator=generator).tolist()
                yield Block(cursor=cursor, order=order, record=records.__getitem__)
                cursor = {"epoch": cursor["epoch"], "before": before + len(records), "state": state}
            if cursor["before"] == 0:
                raise SoftDecodeError(
                    f"the dataset {self._wanted.name} has no example for process {rank} of {world}; use fewer processes"
                )
            cursor = _start_of(cursor["epoch"] + 1)

    def _record(self, key: str, example: Mapping[str, Any]) -> Record:
        return Record(key=key, read=lambda: picture_of(example, self.columns))


def _start_of(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "before": 0, "state": None}


def _examples(dataset: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """Iterate over a streamed dataset; what goes wrong on the way becomes one line."""
    try:
        yield from dataset
    except Exception as error:  # everything that the library's file systems and formats raise
        raise SoftDecodeError(
            f"cannot read on in the dataset {name}: {reason_of(error)}; try again, or resume later"
        ) from error


def _undecoded(dataset: Any, columns: Columns) -> Any:
    """Only the columns that are needed, pictures as they are stored: a damaged one must not end the iteration."""
    from datasets import Image

    kept = [columns.image] if columns.caption is None else [columns.image, columns.caption]
    return dataset.select_columns(kept).cast_column(columns.image, Image(decode=False))


def picture_of(example: Mapping[str, Any], columns: Columns) -> tuple[bytes, str | None]:
    """The picture file's bytes and the caption of an example.

    Raises:
        SoftDecodeError: there is no picture, or it lies elsewhere than in the dataset or on this machine.
    """
    stored = example[columns.image]
    if stored is None:
        raise SoftDecodeError(f"the column {columns.image} is empty")
    data, path = stored["bytes"], stored["path"]
    if data is None:
        if path is None or not Path(path).is_file():
            raise SoftDecodeError(f"the dataset does not hold the picture, and there is no local file {path}")
        data = Path(path).read_bytes()
    caption = None if columns.caption is None else example[columns.caption]
    if columns.classes is not None and caption is not None:
        caption = columns.classes[caption] if caption >= 0 else None
    return data, caption
