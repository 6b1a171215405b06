"""Writing without half-written files, and reading weights strictly."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Size, Tensor

from softdecode.errors import SoftDecodeError


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `target`; it replaces `target` only if the block succeeds.

    The temporary name keeps the suffix of `target`, since image libraries choose their format by it.

    Raises:
        SoftDecodeError: the folder cannot be written to, or the disk is full.
    """
    target = Path(target)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes files private; give the result the permissions any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        raise SoftDecodeError(
            f"cannot write {target}: {error.strerror or error}; what was there is unchanged"
        ) from error
    except SafetensorError as error:  # safetensors reports a full disk as its own error
        raise SoftDecodeError(f"cannot write {target}: {error}; what was there is unchanged") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def staged_files(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder; its files move into the folder `target` only if the block succeeds.

    What else lies in `target` stays. A disk that fills up midway leaves nothing behind.

    Raises:
        SoftDecodeError: the folder cannot be written to.
    """
    target = Path(target)
    with _temporary_folder(target) as temporary:
        yield temporary
        target.mkdir(exist_ok=True)
        for file in sorted(temporary.iterdir()):
            os.replace(file, target / file.name)


@contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; it replaces `target` only if the block succeeds.

    Raises:
        SoftDecodeError: the folder cannot be written to, or the disk is full.
    """
    target = Path(target)
    with _temporary_folder(target) as temporary:
        yield temporary
        _swap(temporary, target)


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, gone afterwards; failures to write become one line."""
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        temporary.chmod(0o755)
        yield temporary
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SoftDecodeError(f"cannot write {target}: {reason}; what was there is unchanged") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, target: Path) -> None:
    """Put the folder `new` where `target` is; the old one goes only when the new one is in its place."""
    if not target.exists():
        os.replace(new, target)
        return
    old = new.with_name(f"{new.name}-old")
    os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        SoftDecodeError: the file is missing, unreadable or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SoftDecodeError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SoftDecodeError(f"{path} is not valid JSON ({error}); restore it from its source") from error


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically."""
    with atomic_path(path) as temporary:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata=metadata)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read every tensor and the metadata of a safetensors file.

    Raises:
        SoftDecodeError: the file is missing, unreadable, truncated or not safetensors.
    """
    path = Path(path)
    if not path.is_file():
        raise SoftDecodeError(f"{path} does not exist; expected a safetensors file there")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise SoftDecodeError(f"{path} is damaged or not a safetensors file ({error}); fetch it again") from error


def listing(folder: Path) -> str:
    """What a folder holds, for messages that say what was found: ten names at most, or "nothing"."""
    names = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:10]) or "nothing"


def check_fit(expected: Mapping[str, Size], found: Mapping[str, Size], origin: str) -> None:
    """Refuse missing, unexpected and misshaped weights, all of them listed.

    Args:
        expected: shapes of a module's tensors by name.
        found: shapes of what was read.
        origin: where from, for the message.

    Raises:
        SoftDecodeError: the names or shapes differ.
    """
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    misshaped = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped))
        if names
    ]
    if problems:
        raise SoftDecodeError(f"{origin} does not fit the model: {'; '.join(problems)}")


@torch.no_grad()
def load_strictly(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy `tensors` into `state`, refusing missing, unexpected and misshaped keys, all of them listed.

    Args:
        state: the tensors of a module, as its `state_dict` shares them, or a part of them.
        tensors: what was read.
        origin: where from, for the message.

    Raises:
        SoftDecodeError: the keys or shapes differ.
    """
    check_fit(
        {name: value.shape for name, value in state.items()},
        {name: value.shape for name, value in tensors.items()},
        origin,
    )
    for name, value in state.items():
        value.copy_(tensors[name])


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """A hash over named tensors, whatever their order and device."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {tensor_sha256(value)}\n".encode())
    return digest.hexdigest()


def tensor_sha256(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's dtype, shape and bytes, in hexadecimal: the same on every device."""
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    digest.update(values.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
