"""Content hashes of many files, remembered as long as the files stay as they are."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from softdecode.data.sources.read_ahead import read_ahead
from softdecode.errors import SoftDecodeError
from softdecode.files import file_sha256, read_json, write_text

_SAVED_EVERY = 60  # seconds
_SETTLED = 2 * 10**9  # nanoseconds; see `_stamp`


def digest_files(root: Path, names: Sequence[str], cache: Path, *, threads: int = 1) -> str:
    """SHA-256 over the names and bytes of files: the same wherever their folder lies.

    Hashing a large set again at every start would take long, so each file's digest is kept in `cache`, with the size
    and times that the file had.

    Args:
        root: the folder.
        names: paths of the files below it, in a fixed order.
        cache: folder of what is remembered.
        threads: how many files are read at once.

    Raises:
        SoftDecodeError: a file cannot be read, or changes while it is.
    """
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    memo_file = cache / f"digests-{place}.json"
    memo: dict[str, list[Any]] = read_json(memo_file) if memo_file.is_file() else {}

    def entry(name: str) -> tuple[str, list[Any], bool]:
        stamp, settled = _stamp(root / name)
        if name in memo and memo[name][:-1] == stamp:
            return name, memo[name], True
        return name, [*stamp, _digest(root / name, stamp)], settled

    progress = tqdm(names, desc="hashing files", unit="file", delay=2, disable=None)
    entries, kept, saved = [], dict(memo), time.monotonic()
    for name, found, settled in read_ahead(entry, progress, threads):
        entries.append((name, found))
        if settled:
            kept[name] = found
        if time.monotonic() - saved > _SAVED_EVERY:  # a run that is stopped while hashing goes on there
            write_text(memo_file, json.dumps(kept))
            saved = time.monotonic()
    if kept != memo:
        write_text(memo_file, json.dumps(kept))
    whole = hashlib.sha256()
    for name, found in entries:
        whole.update(json.dumps([name, found[-1]]).encode())
    return whole.hexdigest()


def _stamp(path: Path) -> tuple[list[int], bool]:
    """A file's size and times, and whether they can be relied on.

    A file that is written twice within one tick of the file system's clock has the same times, so what was changed
    just now is hashed again next time. The time of the last status change is there since it cannot be set back.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise SoftDecodeError(f"cannot read {path}: {error.strerror or error}") from error
    settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns], settled


def _digest(path: Path, stamp: list[int]) -> str:
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise SoftDecodeError(f"cannot read {path}: {error.strerror or error}") from error
    if _stamp(path)[0] != stamp:
        raise SoftDecodeError(f"{path} changed while it was read; wait until the pictures are complete")
    return digest
