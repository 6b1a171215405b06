"""Weight files of a model folder, sharded or not, read one at a time without unpickling anything but tensors."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Size, Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.files import check_fit, listing, read_json

Model = TypeVar("Model", bound=nn.Module)

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
    raise SoftDecodeError(f"{folder} holds no weights: looked for {', '.join(_NAMES)}, found {listing(folder)}")


def read_shards(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all weights of a folder; pickled shards are memory-mapped, so that only what is used is read.

    Raises:
        SoftDecodeError: see `shard_files`, and damaged files, or pickles that hold more than tensors.
    """
    for shard in shard_files(folder):
        if shard.suffix == ".safetensors":
            yield from read_safetensors(shard)
        else:
            yield from read_pickle(shard).items()


def read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a safetensors file, read one by one.

    Raises:
        SoftDecodeError: the file is damaged or absent.
    """
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise SoftDecodeError(f"{path} is damaged or no safetensors file: {error}") from error


def safetensors_shapes(path: Path) -> dict[str, Size]:
    """Shapes of a safetensors file's tensors by name, from its header alone.

    Raises:
        SoftDecodeError: the file is damaged or absent.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SoftDecodeError(f"{path} is damaged or no safetensors file: {error}") from error


def shard_shapes(folder: Path) -> dict[str, Size]:
    """Shapes of all weights of a folder by name, without reading them.

    Raises:
        SoftDecodeError: see `read_shards`.
    """
    shapes: dict[str, Size] = {}
    for shard in shard_files(folder):
        if shard.suffix == ".safetensors":
            shapes |= safetensors_shapes(shard)
        else:
            shapes |= {name: value.shape for name, value in read_pickle(shard).items()}
    return shapes


def count_parts(names: Iterable[str], pattern: str) -> int:
    """How many numbered parts there are: one more than the greatest number that a pattern's group finds in the names.

    Raises:
        KeyError: the pattern matches none.
    """
    numbers = [int(found[1]) for name in names if (found := re.search(pattern, name))]
    if not numbers:
        raise KeyError(pattern)
    return 1 + max(numbers)


def fill(model: Model, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype, origin: str) -> Model:
    """Give a model without weights (on the meta device) these, one by one, strictly.

    Args:
        model: its weights are replaced.
        weights: (name, tensor) by the model's own names.
        dtype: of the weights given.
        origin: where from, for the message.

    Returns:
        The model in eval mode, frozen.

    Raises:
        SoftDecodeError: missing, unexpected or misshaped weights, all of them listed.
    """
    expected = {name: value.shape for name, value in model.state_dict().items()}
    found: dict[str, Size] = {}
    for name, value in weights:
        found[name] = value.shape
        if expected.get(name) == value.shape:
            # One tensor in its place; load_state_dict would walk the whole model for each.
            set_module_tensor_to_device(model, name, "cpu", value=value.to(dtype, copy=True), dtype=dtype)
    check_fit(expected, found, origin)
    return model.eval().requires_grad_(False)


def rules(*pairs: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    """Rules for `renamed`: (pattern, replacement) pairs."""
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


def renamed(name: str, given: Sequence[tuple[re.Pattern[str], str]]) -> str:
    """A weight's name after all rules, applied in order; where none matches, the name itself."""
    for pattern, replacement in given:
        name = pattern.sub(replacement, name)
    return name


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
