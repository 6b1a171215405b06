"""The account of pictures that cannot be used: listed one by one, and too many of them stop the run."""

import json
import os
from pathlib import Path

from softdecode.errors import SoftDecodeError


class CorruptPictures:
    """Counts what was seen and lists what could not be used.

    Attributes:
        seen: pictures met, usable or not; one that is met in every epoch counts every time.
        skipped: those of them that could not be used.
    """

    def __init__(self, path: str | os.PathLike[str], *, limit: float = 0.01, minimum: int = 10) -> None:
        """Start counting.

        Args:
            path: the list, a JSON line for each unusable picture; lines are added to a list that is there already.
            limit: largest share of unusable pictures, in [0, 1].
            minimum: this many unusable pictures never stop the run, whatever their share: at the beginning, a few
                say nothing about the whole.

        Raises:
            SoftDecodeError: `limit` or `minimum` is out of range.
        """
        if not 0 <= limit <= 1:
            raise SoftDecodeError(f"the limit of unusable pictures is {limit}; expected a share from 0 to 1")
        if minimum < 0:
            raise SoftDecodeError(f"the minimum of unusable pictures is {minimum}; expected 0 or more")
        self.path = Path(path)
        self.limit = limit
        self.minimum = minimum
        self.seen = 0
        self.skipped = 0
        self._listed: set[str] = set()

    def accept(self) -> None:
        """Count a picture that can be used."""
        self.seen += 1

    def skip(self, key: str, reason: str) -> None:
        """Count and list one that cannot.

        Raises:
            SoftDecodeError: there are too many, or the list cannot be written.
        """
        self.seen += 1
        self.skipped += 1
        if key not in self._listed:
            self._listed.add(key)
            self._append({"key": key, "reason": reason})
        if self.skipped > self.minimum and self.skipped > self.limit * self.seen:
            raise SoftDecodeError(
                f"{self.skipped} of {self.seen} pictures could not be used, more than {self.limit:.2%}; "
                f"{self.path} lists them with reasons; repair or remove them, or raise the limit"
            )

    def _append(self, record: dict[str, str]) -> None:
        line = json.dumps(record, ensure_ascii=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write at the end of the file: the lines of several processes do not mix.
            with open(self.path, "ab", buffering=0) as file:
                file.write(line.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise SoftDecodeError(f"cannot write {self.path}: {error.strerror or error}") from error
