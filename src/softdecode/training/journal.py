"""What a run tells: `log.jsonl`, the terminal, previews, and the trackers that are asked for."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_path, write_json
from softdecode.provenance import provenance
from softdecode.training.config import LoopConfig


class Journal:
    """The record of a run, kept by the main process; on the others nothing happens.

    Args:
        accelerator: of the run, whose trackers are told too.
        config: how the run is trained.
        output: folder for `run.json`, `log.jsonl` and `previews/`.
        job: the resolved settings of the whole job.
        start: steps done before.
    """

    def __init__(
        self, accelerator: Accelerator, config: LoopConfig, output: Path, job: Mapping[str, Any], start: int
    ) -> None:
        self._accelerator = accelerator
        self._config = config
        self._output = output
        self._start = start
        self._began = time.perf_counter()
        if not accelerator.is_main_process:
            return
        write_json(output / "run.json", {"job": job, "loop": asdict(config), "provenance": provenance()})
        _drop_half_line(output / "log.jsonl")
        if config.trackers:
            settings = {
                name: value for name, value in asdict(config).items() if isinstance(value, bool | int | float | str)
            }
            accelerator.init_trackers("softdecode", config=settings)

    def record(self, step: int, losses: Mapping[str, float]) -> None:
        """Note the losses after `step` steps.

        Raises:
            SoftDecodeError: the log cannot be written to.
        """
        if not self._accelerator.is_main_process:
            return
        seconds = time.perf_counter() - self._began
        record = {"samples_per_second": round((step - self._start) * self._config.batch_size / seconds, 2), **losses}
        line = {"step": step, "resumed_at": self._start, "seconds": round(seconds, 1), **record}
        try:
            with open(self._output / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        except OSError as error:
            raise SoftDecodeError(f"cannot write {self._output / 'log.jsonl'}: {error.strerror or error}") from error
        shown = " ".join(f"{name} {value:.4g}" for name, value in record.items())
        print(f"step {step}/{self._config.steps} {shown}", flush=True)
        self._accelerator.log(record, step=step)

    def show(self, step: int, picture: Image.Image | None) -> None:
        """Write a preview to `previews/step-NNNNNN.png`, and hand it to the trackers that take pictures."""
        if picture is None or not self._accelerator.is_main_process:
            return
        with atomic_path(self._output / "previews" / f"step-{step:06d}.png") as path:
            picture.save(path)
        pixels = np.asarray(picture.convert("RGB"))[None]
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"preview": pixels}, step=step, dataformats="NHWC")
            elif hasattr(tracker, "log_images"):
                tracker.log_images({"preview": pixels}, step=step)

    def close(self) -> None:
        """Let the trackers finish."""
        if self._config.trackers:
            for tracker in self._accelerator.trackers:
                tracker.finish()


def _drop_half_line(log: Path) -> None:
    """A killed process may have left half a line, which the next one would be glued to."""
    if log.is_file():
        content = log.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with atomic_path(log) as temporary:
                temporary.write_bytes(whole)
