"""Pictures as they lie in a source, before they are decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Record:
    """One picture as it lies in the source.

    Attributes:
        key: its name.
        read: gives the picture file's bytes and the caption; raises OSError or SoftDecodeError where it cannot.
    """

    key: str
    read: Callable[[], tuple[bytes, str | None]]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a stream that is shuffled as a whole.

    Attributes:
        cursor: plain JSON from which the source gives this block, and those after it, again.
        order: numbers of this rank's records, in the order of the stream.
        record: gives the record of a number.
    """

    cursor: dict[str, Any]
    order: list[int]
    record: Callable[[int], Record]


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A picture that cannot be used, and why."""

    key: str
    reason: str
