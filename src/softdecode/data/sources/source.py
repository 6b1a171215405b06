"""What all sources of pictures have in common."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from softdecode.data.sources.corrupt import CorruptPictures
from softdecode.data.sources.picture import PictureTransform, Sample
from softdecode.data.sources.read_ahead import read_ahead
from softdecode.data.sources.record import Block, Record, Unusable
from softdecode.data.sources.stream import PictureStream
from softdecode.errors import SoftDecodeError
from softdecode.seeds import generator_for


class PictureSource(ABC):
    """Pictures with captions, read in a fixed order by `samples`, or shuffled without end by `stream`."""

    shuffling: Mapping[str, int] = MappingProxyType({})
    """Settings besides the seed that decide the order of the stream."""

    def __init__(self, transform: PictureTransform, *, threads: int = 1) -> None:
        """Keep how pictures are decoded, and by how many threads: they change the speed, not the result."""
        if threads < 1:
            raise SoftDecodeError(f"{threads} threads were asked for to decode pictures; expected 1 or more")
        self.transform = transform
        self.threads = threads

    @abstractmethod
    def content(self) -> str:
        """A hash over names, pictures and captions, the same wherever they lie."""

    @abstractmethod
    def records(self, start: int = 0) -> Iterator[Record]:
        """Every record once, in a fixed order, from number `start`."""

    @abstractmethod
    def blocks(self, cursor: dict[str, Any] | None, *, seed: int, rank: int, world: int) -> Iterator[Block]:
        """The endless blocks of a rank's stream, from the one that `cursor` names; from the first if it is None."""

    @cached_property
    def identity(self) -> str:
        """SHA-256 over everything that decides the samples: the content and the transform."""
        return hashlib.sha256(f"{self.content()} {self.transform.identity}".encode()).hexdigest()

    def samples(self, corrupt: CorruptPictures, start: int = 0) -> Iterator[Sample]:
        """Every sample once, in a fixed order.

        Args:
            corrupt: takes account of the pictures that cannot be used; they are left out.
            start: number of the first record, unusable ones counted: `sample.number + 1` goes on after `sample`.

        Raises:
            SoftDecodeError: too many pictures cannot be used.
        """
        return self._usable(enumerate(self.records(start), start), corrupt)

    def _usable(self, numbered: Iterable[tuple[int, Record]], corrupt: CorruptPictures) -> Iterator[Sample]:
        """The samples of records with their numbers, without those that cannot be used."""

        def attempt(place: tuple[int, Record]) -> Sample | Unusable:
            number, record = place
            return self.decode(record, number)

        for outcome in read_ahead(attempt, numbered, self.threads):
            if isinstance(outcome, Sample):
                corrupt.accept()
                yield outcome
            else:
                corrupt.skip(outcome.key, outcome.reason)

    def has_captions(self, looked_at: int = 16) -> bool:
        """Whether any of the first pictures has a caption."""
        for record in islice(self.records(), looked_at):
            try:
                if record.read()[1] is not None:
                    return True
            except (OSError, SoftDecodeError):
                continue  # it is listed when it is decoded
        return False

    def stream(
        self,
        corrupt: CorruptPictures,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        state: dict[str, Any] | None = None,
    ) -> PictureStream:
        """Shuffled samples without end.

        Args:
            corrupt: takes account of the pictures that cannot be used; they are left out.
            seed: decides the order, together with the content.
            rank, world: this process and the number of processes, each of which gets other samples.
            state: a stream's `state_dict()`: give exactly what it would have given next.

        Raises:
            SoftDecodeError: no such rank, or the state is of another source, transform, seed, rank or world.
        """
        return PictureStream(self, corrupt, seed=seed, rank=rank, world=world, state=state)

    def decode(self, record: Record, number: int) -> Sample | Unusable:
        """Read and decode a record."""
        try:
            data, caption = record.read()
            image = self.transform(data, record.key)
        except (OSError, SoftDecodeError) as error:
            return Unusable(key=record.key, reason=getattr(error, "strerror", None) or str(error))
        return Sample(key=record.key, number=number, image=image, caption=caption)


class NumberedSource(PictureSource):
    """A source that can read any of its records at once: a block of its stream is an epoch, shuffled as a whole."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, number: int) -> Record:
        """The record of a number from 0 to `len(self) - 1`."""

    def records(self, start: int = 0) -> Iterator[Record]:
        return (self.record(number) for number in range(start, len(self)))

    def samples_at(self, numbers: Sequence[int], corrupt: CorruptPictures) -> Iterator[Sample]:
        """The samples of some records, as `samples` gives those of all."""
        return self._usable(((number, self.record(number)) for number in numbers), corrupt)

    def blocks(self, cursor: dict[str, Any] | None, *, seed: int, rank: int, world: int) -> Iterator[Block]:
        epoch = cursor["epoch"] if cursor else 0
        while True:
            order = torch.randperm(len(self), generator=generator_for("pictures", seed, epoch))
            share = share_of(order, before=epoch * len(self), rank=rank, world=world)
            yield Block(cursor={"epoch": epoch}, order=share, record=self.record)
            epoch += 1


def share_of(order: Tensor, *, before: int, rank: int, world: int) -> list[int]:
    """A rank's part of a block: every `world`-th record of the one stream that all ranks divide among them.

    Args:
        order: [M] int64, the block's records in the order of the stream.
        before: number of records in the blocks before it.
    """
    return order[(rank - before) % world :: world].tolist()
