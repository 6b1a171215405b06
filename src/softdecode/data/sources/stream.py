"""Endless, shuffled pictures that go on exactly where they stopped."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from softdecode.data.sources.corrupt import CorruptPictures
from softdecode.data.sources.picture import Sample
from softdecode.data.sources.read_ahead import read_ahead
from softdecode.data.sources.record import Block, Unusable
from softdecode.errors import SoftDecodeError

if TYPE_CHECKING:
    from softdecode.data.sources.source import PictureSource


class PictureStream(Iterator[Sample]):
    """The shuffled samples of a source without end, for one of `world` processes.

    A stream that continues from `state_dict()` gives exactly the samples that this one would have given next. That
    is why there is no shuffle buffer, whose content a restart would lose: the source gives whole shuffled blocks,
    each decided by the seed and its number, and the state is a block and a place in it.
    """

    def __init__(
        self,
        source: "PictureSource",
        corrupt: CorruptPictures,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Begin, or continue from `state`.

        Raises:
            SoftDecodeError: no such rank, or the state is of another source, transform, seed, rank or world.
        """
        if not 0 <= rank < world:
            raise SoftDecodeError(f"rank {rank} of {world} processes was asked for; expected 0 to {world - 1}")
        self._source, self._corrupt = source, corrupt
        self._made_of = {"source": source.identity, "seed": seed, "rank": rank, "world": world, **source.shuffling}
        self._cursor, self._position, self._number = None, 0, 0
        if state is not None:
            self._check(state)
            self._cursor, self._position, self._number = state["cursor"], state["position"], state["number"]
        self._outcomes = read_ahead(self._attempt, self._places(), source.threads)

    def __next__(self) -> Sample:
        while True:
            outcome, block, position = next(self._outcomes)
            if isinstance(outcome, Sample):
                self._corrupt.accept()
                # Only what was given counts as read: threads may be ahead.
                self._cursor, self._position, self._number = block.cursor, position + 1, outcome.number + 1
                return outcome
            self._corrupt.skip(outcome.key, outcome.reason)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after the last sample that it gave, as plain JSON."""
        return {**self._made_of, "cursor": self._cursor, "position": self._position, "number": self._number}

    def _check(self, state: dict[str, Any]) -> None:
        missing = [name for name in self.state_dict() if name not in state]
        if missing:
            raise SoftDecodeError(f"the state of the data stream lacks {', '.join(missing)}; it was not saved by one")
        for name, value in self._made_of.items():
            if state[name] != value:
                raise SoftDecodeError(
                    f"the data stream was saved with {name} {state[name]}, now it is {value}; "
                    "continue with the same pictures, size, seed and number of processes, or start anew"
                )

    def _places(self) -> Iterator[tuple[Block, int, int]]:
        """Blocks, positions in them and numbers, of the records still to come."""
        position, number = self._position, self._number
        options = {name: self._made_of[name] for name in ("seed", "rank", "world")}
        for block in self._source.blocks(self._cursor, **options):
            for place in range(position, len(block.order)):
                yield block, place, number
                number += 1
            position = 0

    def _attempt(self, place: tuple[Block, int, int]) -> tuple[Sample | Unusable, Block, int]:
        block, position, number = place
        return self._source.decode(block.record(block.order[position]), number), block, position
