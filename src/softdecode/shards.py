"""Weight files of a model folder, sharded or not, read one at a time without unpickling anything but tensors."""

from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.files import read_json

# In the order in which they are looked for: safetensors before pickles, indices before single files.
_NAMES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def shard_files(folder: Path) -> list[Path]:
    """The weight files of a folder in the layout of transformers.

    Raises:
        SoftDecodeError: no weights there, or an index that names files that are not.
    """
    for name in _NAMES:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        content = read_json(path)
        try:
            shards = sorted({folder / file for file in content["weight_map"].values()})
        except (TypeError, KeyError, AttributeError) as error:
            raise SoftDecodeError(f"{path} is no index of weights: {error!r}") from error
        absent = [shard.name for shard in shards if not shard.is_file()]
        if absent:
            raise SoftDecodeError(f"{folder} lacks weight files that its index names: {', '.join(absent)}")
        return shards
    found = ", ".join(sorted(item.name for item in folder.iterdir())[:10]) or "nothing"
    raise SoftDecodeError(f"{folder} holds no weights: looked for {', '.join(_NAMES)}, found {found}")


def read_shards(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all weights of a folder; pickled shards are memory-mapped, so that only what is used is read.

    Raises:
        SoftDecodeError: see `shard_files`, and damaged files, or pickles that hold more than tensors.
    """
    for shard in shard_files(folder):
        if shard.suffix == ".safetensors":
            try:
                with safe_open(shard, "pt") as file:
                    for name in file.keys():  # noqa: SIM118 - it is no dict
                        yield name, file.get_tensor(name)
            except SafetensorError as error:
                raise SoftDecodeError(f"{shard} is damaged or no safetensors file: {error}") from error
            continue
        yield from read_pickle(shard).items()


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save` file that holds a state dict and nothing else.

    Raises:
        SoftDecodeError: the file is damaged, holds other objects, or is no dict of tensors.
    """
    return _state_dict(path, _load_tensors(path))


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The model's tensors of a training checkpoint: bare, or under `model`, `module` or `state_dict`.

    Raises:
        SoftDecodeError: the file is absent or damaged, holds pickled objects, or no tensors.
    """
    content = _load_tensors(path)
    if isinstance(content, dict):
        for wrapper in ("model", "module", "state_dict"):
            if isinstance(content.get(wrapper), dict):
                return _state_dict(path, content[wrapper])
    return _state_dict(path, content)


def _load_tensors(path: Path) -> Any:
    """`torch.load`, memory-mapped, that unpickles nothing but tensors and plain containers."""
    if not path.is_file():
        raise SoftDecodeError(f"there is no file {path}; expected a checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise SoftDecodeError(
            f"{path} holds pickled Python objects, which could run any code, or is damaged; if you trust where it is "
            f"from, save its weights alone: torch.save({{'model': torch.load('{path.name}', weights_only=False)"
            "['model']}, 'weights.pt')"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SoftDecodeError(f"{path} is damaged, or no checkpoint of torch: {reason}") from error


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SoftDecodeError(f"{path} is no dict of tensors; expected a model's state dict")
    return content
