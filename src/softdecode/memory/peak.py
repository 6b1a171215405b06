"""Peak memory of a computation, counted tensor by tensor; on the meta device without computing or allocating."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class PeakMemory(TorchDispatchMode):
    """While active, adds up the storages that operations make, until they are freed.

    Args:
        existing: tensors that are there before, as weights and inputs; they and their views are not counted.

    Attributes:
        live, peak: bytes now, and at most.
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = WeakIdKeyDictionary()
        for tensor in existing:
            self._known[tensor.untyped_storage()] = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: UntypedStorage) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.live -= size


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, shared storages counted once."""
    return sum({id(t.untyped_storage()): t.untyped_storage().nbytes() for t in tensors}.values())


def model_tensors(*modules: torch.nn.Module) -> list[Tensor]:
    """All parameters and buffers of modules."""
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
