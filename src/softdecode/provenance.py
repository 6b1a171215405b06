"""Where a result comes from: git revision, library versions, machine, time."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_LIBRARIES = ("softdecode", "torch", "diffusers", "transformers", "safetensors", "torchmetrics", "numpy")


def provenance() -> dict[str, object]:
    """Git revision (with `-dirty` where files differ), versions, Python, machine, CPU threads and UTC time."""
    return {
        "git": _git_revision(),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of the checkout this file lies in; None where it is installed from a package."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
