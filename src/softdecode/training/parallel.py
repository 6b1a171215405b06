"""A task on one process, replicated on several (DDP), or sharded over them (FSDP2)."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from softdecode.errors import SoftDecodeError
from softdecode.training.config import LoopConfig
from softdecode.training.sharding import whole
from softdecode.training.task import Task


class Alone:
    """One process: the task itself."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.module: nn.Module = task
        """What is called with a batch and the step."""

    def unsynchronised(self) -> AbstractContextManager[None]:
        """Within the block, backward passes add up gradients without exchanging them."""
        return nullcontext()

    def previews(self, main: bool) -> AbstractContextManager[bool]:
        """Whether this process must call `Task.preview`; within the block it can."""
        return nullcontext(main)

    def dissolve(self) -> None:
        """Leave a plain task behind, with whole weights."""


class Replicated(Alone):
    """A copy on each process; gradients are averaged (DistributedDataParallel)."""

    def __init__(self, task: Task, accelerator: Accelerator) -> None:
        super().__init__(task)
        device = accelerator.device
        # Not by accelerate, which names the device by the process's place on the node: where SLURM shows each task one
        # GPU alone, that is another number.
        self.module = DistributedDataParallel(
            task,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )

    def unsynchronised(self) -> AbstractContextManager[None]:
        assert isinstance(self.module, DistributedDataParallel)
        return self.module.no_sync()


class Sharded(Alone):
    """Each process holds a part of every trained weight and of the blocks (FSDP2); blocks are made whole to compute.

    Gradients are exchanged after every micro-batch: keeping them back would keep them whole.
    """

    def __init__(self, task: Task, accelerator: Accelerator) -> None:
        super().__init__(task)
        self._main = accelerator.is_main_process
        blocks = task.blocks()
        if not blocks:
            raise SoftDecodeError(f"{type(task).__name__} has no repeated blocks to shard; use --loop.parallel ddp")
        self._bare = {id(block): _bare(block) for block in blocks}
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        # What is frozen outside the blocks is small, and is called by itself too: it stays whole on each process.
        frozen = {p for p in task.parameters() if not p.requires_grad and not isinstance(p, DTensor)}
        # The task itself keeps its class and has no hooks, so that it is what it was when this is over.
        self.module = _Outer(task)
        fully_shard(self.module, mesh=mesh, ignored_params=frozen)
        task.to(accelerator.device)

    @contextmanager
    def previews(self, main: bool) -> Iterator[bool]:
        """Every process takes part, since each has a part of every block."""
        assert isinstance(self.module, FSDPModule)
        self.module.unshard()
        try:
            yield True
        finally:
            self.module.reshard()

    @torch.no_grad()
    def dissolve(self) -> None:
        """Whole weights on the main process's CPU; the others' are on the device `meta`, without values."""
        for parent in list(self.task.modules()):
            for name, child in list(parent.named_children()):
                if id(child) in self._bare:
                    bare = self._bare[id(child)]
                    self._fill(bare, child)
                    parent.register_module(name, bare)
        self._fill(self.task, self.task)

    def _fill(self, target: nn.Module, source: nn.Module) -> None:
        for name, parameter in list(source.named_parameters()):
            if isinstance(parameter, DTensor):
                full = whole(parameter.detach())
                value = full.cpu() if self._main else full.to("meta")
                owner, _, leaf = name.rpartition(".")
                setattr(target.get_submodule(owner), leaf, nn.Parameter(value, parameter.requires_grad))


class _Outer(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return self.task(batch, step)


def _bare(block: nn.Module) -> nn.Module:
    """A copy without values: sharding changes a block's class and hooks for good, and this takes its place later."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in block.parameters()}
    return copy.deepcopy(block, memo=empty)


def parallelise(task: Task, config: LoopConfig, accelerator: Accelerator, device: torch.device) -> Alone:
    """Put the task on its device, in the way that the config and the number of processes ask for.

    Raises:
        SoftDecodeError: a batch that cannot be divided, or nothing to shard.
    """
    processes, parts = accelerator.num_processes, accelerator.num_processes * config.gradient_accumulation
    if config.batch_size % parts:
        raise SoftDecodeError(
            f"a batch of {config.batch_size} cannot be divided among {processes} processes with "
            f"{config.gradient_accumulation} micro-batches each; --loop.batch-size must be a multiple of {parts}"
        )
    if task.whole_batches and parts > 1:
        raise SoftDecodeError(
            f"{type(task).__name__} needs whole batches; train it on one process without gradient accumulation"
        )
    if processes == 1:
        task.to(device)
        return Alone(task)
    if config.parallel == "fsdp2":
        return Sharded(task, accelerator)
    task.to(accelerator.device)
    return Replicated(task, accelerator)
