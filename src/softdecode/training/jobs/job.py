"""What every training job is told, and how it is run and recorded."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from softdecode.data.emoji import EmojiData, Split, load_emoji
from softdecode.device import resolve_device
from softdecode.errors import SoftDecodeError
from softdecode.training.config import LoopConfig
from softdecode.training.loop import train
from softdecode.training.processes import connect
from softdecode.training.task import Task

DEFAULT_DATA = Path("~/.cache/softdecode/emoji")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every job is told."""

    output: Path
    """Folder of the run: `model/`, `checkpoint/`, `log.jsonl`, `run.json`, `previews/`."""
    loop: LoopConfig
    """How it is trained."""
    limit: int | None = None
    """Train on the first so many pictures only (for trying things out)."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""
    resume: bool = False
    """Go on from the checkpoint in the output folder."""
    initial: Path | None = None
    """Start from the trained `model/` of another run rather than from random weights; it must have the same sizes."""

    def __post_init__(self) -> None:
        resolve_device(self.device)  # before the long work, not after it
        if self.limit is not None and self.limit < 1:
            raise SoftDecodeError(f"--limit must be at least 1, got {self.limit}")

    def run(self) -> None:
        """Train, and write `model/` into the output folder.

        Where several processes were launched, each runs this, and the main one alone writes.
        """
        raise NotImplementedError

    @property
    def processes(self) -> PartialState:
        """This process's place among those that were launched; see `connect`."""
        return connect(resolve_device(self.device))

    def train(self, task: Task, digest: str) -> None:
        """Run the loop; the job's settings and the data's identity go into the run's record."""
        settings: dict[str, Any] = {"kind": type(self).__name__, **asdict(self)}
        settings |= {"data_sha256": digest, "samples": task.samples}
        self.output.mkdir(parents=True, exist_ok=True)
        device = resolve_device(self.device)
        train(task, self.loop, self.output, job=_plain(settings), resume=self.resume, device=device)


@dataclass(frozen=True, kw_only=True)
class EmojiJob(Job):
    """A job of the embedded stack."""

    data: Path = DEFAULT_DATA
    """Folder of the emoji packages and the prepared pictures."""

    def emoji(self, split: Split = "train") -> EmojiData:
        """A split; the first `limit` of the training one."""
        with self.processes.main_process_first():  # where the pictures are not prepared yet, one process does it
            data = load_emoji(self.data.expanduser()).split(split)
        if self.limit is None or split != "train":
            return data
        return EmojiData(images=data.images[: self.limit], emoji=data.emoji[: self.limit], digest=data.digest)


def _plain(value: Any) -> Any:
    """Settings as JSON knows them: paths become strings."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value
