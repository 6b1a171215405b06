"""Published weight files of evaluation networks: fetched once, checked, and read without unpickling code."""

import pickle
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_path, file_sha256


def fetched(url: str, option: str) -> Path:
    """The local copy of a published file whose name ends in the start of its SHA-256, as torch.hub's do.

    Args:
        url: ending in `NAME-HASH.pth`.
        option: the option that names a file instead, for the message.

    Raises:
        SoftDecodeError: it cannot be fetched, or is not the published file.
    """
    name = url.rsplit("/", 1)[-1]
    expected = name.rsplit("-", 1)[-1].removesuffix(".pth")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        with atomic_path(path) as temporary:
            try:
                torch.hub.download_url_to_file(url, str(temporary), progress=False)
            except URLError as error:
                message = f"cannot fetch {url} ({error.reason}); fetch it yourself and name the file with {option}"
                raise SoftDecodeError(message) from error
    if not file_sha256(path).startswith(expected):
        raise SoftDecodeError(f"{path} is not the published file (its SHA-256 should start {expected}); delete it")
    return path


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors of a .pth file, and its SHA-256. Files that hold anything but tensors are refused.

    Raises:
        SoftDecodeError: the file is missing, damaged, or holds other things than tensors by name.
    """
    try:
        digest = file_sha256(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SoftDecodeError(f"cannot read the weights {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise SoftDecodeError(f"{path} is damaged, or holds more than tensors: refused; fetch it again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SoftDecodeError(f"{path} does not hold tensors by name; expected the weights of a network")
    return content, digest
