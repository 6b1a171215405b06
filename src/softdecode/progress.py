"""Progress bars, one for each stage of a long job, on standard error."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

Progress = Callable[[str, int, int], None]  # (stage, done, total)


@contextlib.contextmanager
def progress_bars(quiet: bool) -> Iterator["Bars"]:
    """One bar per stage, on standard error."""
    bars = Bars(quiet)
    try:
        yield bars
    finally:
        bars.close()


class Bars:
    """Progress of stages by name; a stage's bar starts when it is first reported, or reported from the start again."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._bar is None or stage != self._stage or done <= self._bar.n:
            self.close()
            self._stage = stage
            self._bar = tqdm(total=total, desc=stage, disable=self._quiet, leave=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None
