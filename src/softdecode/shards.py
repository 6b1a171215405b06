"""Weight files of a model folder, sharded or not, read one at a time without unpickling anything but tensors."""

from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

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
    """The tensors of a `torch.save` file, memory-mapped; nothing else is unpickled.

    Raises:
        SoftDecodeError: the file is damaged, holds other objects, or is no dict of tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SoftDecodeError(f"{path} is damaged, or holds more than tensors: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SoftDecodeError(f"{path} is no dict of tensors; expected a model's state dict")
    return content
