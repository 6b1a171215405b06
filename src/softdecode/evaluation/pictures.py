"""The pictures that an evaluation is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from softdecode.data.emoji import load_emoji
from softdecode.data.picture_sets import PictureBatch, SourcePictures
from softdecode.data.sources import CorruptPictures, SourceOptions
from softdecode.data.spacing import evenly_spaced

EMOJI_RESIZER = "none: pictures are 64 px as published (fluent: Lanczos from 256 px)"


class Pictures(Protocol):
    """Pictures in a fixed order, read a part at a time; a tensor [M, 3, H, W] uint8 is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Tensor:
        """The pictures of a slice (no step, within the length): [b, 3, H, W] uint8, on the CPU."""
        ...


class Captions(Protocol):
    """The captions of `Pictures`; a list is one."""

    def __getitem__(self, part: slice, /) -> Sequence[str | None]:
        """Those of a slice of the pictures."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationPictures:
    """Pictures to reconstruct, and what a result file says of them.

    Attributes:
        images: the originals.
        captions: of slices, one for each picture, None where it has none.
        description: plain JSON for the protocol: `reference` (what they are), `data_sha256`, `whole_split` (whether
            they are all there are), `resizer` and `crop` (how they got their size).
    """

    images: Pictures
    captions: Captions
    description: dict[str, object]

    def labels(self, places: Sequence[int]) -> list[str]:
        """What pictures are called in a contact sheet: by captions that are held, else by their places."""
        held = self.captions if isinstance(self.captions, list) else None
        return [str(place) if held is None else held[place] for place in places]


def emoji_test_pictures(folder: Path, limit: int | None = None) -> EvaluationPictures:
    """The emoji test split, or `limit` of its pictures, evenly spaced.

    Args:
        folder: of the emoji data.
        limit: at least 1; all where None.

    Raises:
        SoftDecodeError: the data cannot be read or prepared.
    """
    data = load_emoji(folder).split("test")
    count = min(limit or len(data), len(data))
    places = evenly_spaced(len(data), count)
    return EvaluationPictures(
        images=data.images[places],
        captions=[data.emoji[place].caption for place in places],
        description={
            "reference": "the originals, emoji test split (whole families held out)",
            "data_sha256": data.digest,
            "whole_split": count == len(data),
            "resizer": EMOJI_RESIZER,
            "crop": "none",
        },
    )


class _ReadPictures:
    """A picture set as `Pictures`, and its captions; the last part that was asked for is held."""

    def __init__(self, pictures: SourcePictures) -> None:
        self._pictures = pictures
        self._held: tuple[slice, PictureBatch] | None = None

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, part: slice, /) -> Tensor:
        return self.read(part).images

    def read(self, part: slice) -> PictureBatch:
        if self._held is None or self._held[0] != part:
            stop = len(self) if part.stop is None else part.stop
            self._held = part, self._pictures.read(part.start or 0, stop)
        return self._held[1]


class _ReadCaptions:
    """The captions of the same pictures, which come with them."""

    def __init__(self, pictures: _ReadPictures) -> None:
        self._pictures = pictures

    def __getitem__(self, part: slice, /) -> Sequence[str | None]:
        return self._pictures.read(part).captions


def source_pictures(
    spec: str,
    size: tuple[int, int],
    output: Path,
    limit: int | None = None,
    options: SourceOptions | None = None,
) -> EvaluationPictures:
    """The pictures of a source, read as they are needed, or the first `limit` of them.

    Args:
        spec: see `open_source`.
        size: (height, width) that they are brought to.
        output: folder for the list of pictures that cannot be used, each of which is an error here.
        limit: at least 1; all where None.
        options: how the source is read.

    Raises:
        SoftDecodeError: no such source.
    """
    corrupt = CorruptPictures(output / "unusable.jsonl", limit=0.0, minimum=0)
    source = (options or SourceOptions()).open(spec, size)
    pictures = SourcePictures(source, corrupt, limit)
    read = _ReadPictures(pictures)
    return EvaluationPictures(
        images=read,
        captions=_ReadCaptions(read),
        description={
            "reference": "the originals",
            "source": spec,
            "data_sha256": pictures.digest,
            "whole_split": limit is None,
            "resizer": source.transform.identity,
            "crop": "centre, where the shape differs",
        },
    )
