"""What every training job is told, and how it is run and recorded."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from softdecode.data.emoji import EmojiData, load_emoji
from softdecode.device import resolve_device
from softdecode.errors import SoftDecodeError
from softdecode.training.config import LoopConfig
from softdecode.training.loop import Task, train

DEFAULT_DATA = Path("~/.cache/softdecode/emoji")


class TrainingData(Protocol):
    """What a run's record says of the data."""

    @property
    def digest(self) -> str:
        """SHA-256 of the pictures."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every job is told."""

    output: Path
    """Folder of the run: `model/`, `checkpoint/`, `log.jsonl`, `run.json`."""
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
        """Train, and write `model/` into the output folder."""
        raise NotImplementedError

    def train(self, task: Task, data: TrainingData) -> None:
        """Run the loop; the job's settings and the data's identity go into the run's record."""
        settings: dict[str, Any] = {"kind": type(self).__name__, **asdict(self)}
        settings |= {"data_sha256": data.digest, "samples": task.samples}
        self.output.mkdir(parents=True, exist_ok=True)
        train(task.to(resolve_device(self.device)), self.loop, self.output, job=_plain(settings), resume=self.resume)


@dataclass(frozen=True, kw_only=True)
class EmojiJob(Job):
    """A job of the embedded stack."""

    data: Path = DEFAULT_DATA
    """Folder of the emoji packages and the prepared pictures."""

    def emoji(self) -> EmojiData:
        data = load_emoji(self.data.expanduser()).split("train")
        if self.limit is None:
            return data
        return EmojiData(images=data.images[: self.limit], emoji=data.emoji[: self.limit], digest=data.digest)


def _plain(value: Any) -> Any:
    """Settings as JSON knows them: paths become strings."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value
