"""What lies where in a webdataset tar, so that its samples can be read in any order."""

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from softdecode.data.sources.record import Record
from softdecode.errors import SoftDecodeError

PICTURES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True, slots=True)
class TarSample:
    """Files of one sample, each as its offset in the tar and its size, in bytes; None where there is none."""

    key: str
    picture: tuple[int, int] | None
    text: tuple[int, int] | None
    json: tuple[int, int] | None


def index_tar(path: Path) -> list[TarSample]:
    """The samples of a tar in its order, grouped as the webdataset library groups them.

    Raises:
        SoftDecodeError: webdataset is not installed, or the file is missing, compressed, damaged or no tar.
    """
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError as error:
        raise SoftDecodeError("webdataset tars need webdataset; install softdecode[train]") from error
    try:
        with tarfile.open(path, "r:") as tar:
            # The library only sorts names and passes the contents on: here, where they lie.
            files = [
                {"fname": member.name, "data": (member.offset_data, member.size), "__url__": str(path)}
                for member in tar
                if member.isreg()
            ]
            _check_end(path, tar.offset)
        groups = list(group_by_keys(files))
    except OSError as error:
        raise SoftDecodeError(f"cannot read {path}: {error.strerror or error}") from error
    except (tarfile.TarError, ValueError) as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        raise SoftDecodeError(
            f"{path} is damaged or not an uncompressed tar ({reason}); fetch it again, or unpack its compression"
        ) from error
    return [
        TarSample(
            key=group["__key__"],
            picture=next((group[suffix] for suffix in PICTURES if suffix in group), None),
            text=group.get("txt"),
            json=group.get("json"),
        )
        for group in groups
    ]


def tar_record(path: Path, sample: TarSample) -> Record:
    """A sample's picture, and its caption: the text of `KEY.txt`, or the field "caption" of `KEY.json`."""

    def read() -> tuple[bytes, str | None]:
        if sample.picture is None:
            raise SoftDecodeError(f"{sample.key} has no picture; expected {', '.join(PICTURES)}")
        with open(path, "rb") as file:
            return _part(file.fileno(), sample.picture), _caption(file.fileno(), sample)

    return Record(key=f"{path.name}/{sample.key}", read=read)


def _check_end(path: Path, end: int) -> None:
    """Refuse a tar without its end mark, and one that goes on after it: either way samples would be lost unseen."""
    with open(path, "rb") as file:
        file.seek(end)
        rest = file.read(tarfile.BLOCKSIZE)
        if len(rest) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends too early")
        while rest:
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"there is more after byte {end}")
            rest = file.read(1 << 20)


def _part(file: int, place: tuple[int, int]) -> bytes:
    offset, size = place
    found = os.pread(file, size, offset)
    if len(found) != size:
        raise SoftDecodeError(f"{len(found)} of {size} bytes could be read; the tar became shorter")
    return found


def _caption(file: int, sample: TarSample) -> str | None:
    try:
        if sample.text is not None:
            return _part(file, sample.text).decode().strip()
        if sample.json is None:
            return None
        fields = json.loads(_part(file, sample.json))
        caption = fields.get("caption") if isinstance(fields, dict) else None
    except ValueError as error:
        raise SoftDecodeError(f"the caption of {sample.key} cannot be read: {error}") from error
    if caption is not None and not isinstance(caption, str):
        raise SoftDecodeError(f"the caption of {sample.key} is not text: {caption!r:.80}")
    return caption
