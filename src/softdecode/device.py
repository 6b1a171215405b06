"""The one place that resolves device and dtype."""

import torch

from softdecode.errors import SoftDecodeError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str | torch.device | None = None) -> torch.device:
    """The device to run on: the named one, or the best there is (CUDA, then MPS, then the CPU).

    Raises:
        SoftDecodeError: an unknown name, or a device that this machine or this PyTorch lacks.
    """
    if name is None or name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SoftDecodeError(f"unknown device {str(name)!r}; expected auto, cpu, mps, cuda or cuda:N") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise SoftDecodeError(f"device {device} is not here: {count} CUDA devices were found; try --device cpu")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise SoftDecodeError("device mps is not here; try --device cpu")
    elif device.type != "cpu":
        raise SoftDecodeError(f"device {device} is not supported; expected cpu, mps or cuda")
    return device


def resolve_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of weights and arithmetic: the named one, or bfloat16 on CUDA and float32 elsewhere.

    Raises:
        SoftDecodeError: an unknown name.
    """
    if isinstance(name, torch.dtype):
        return name
    if name is None or name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise SoftDecodeError(f"unknown dtype {name!r}; expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def resolve_placement(
    device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """`resolve_device`, and `resolve_dtype` on that device."""
    where = resolve_device(device)
    return where, resolve_dtype(dtype, where)


def use_local_device(rank: int) -> None:
    """Make `cuda` mean this process's own GPU, where a launcher started several processes on the machine."""
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
