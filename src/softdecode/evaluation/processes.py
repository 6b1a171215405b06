"""One evaluation shared by several processes, as torchrun and `accelerate launch` start them.

Only small things travel (features, numbers, a few pictures), over gloo on the CPU, whatever the models run on.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed

from softdecode.device import use_local_device

T = TypeVar("T")

# How long the fastest process waits for the slowest, of an evaluation of hours; gloo's 30 minutes would end it.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that share the work.

    Attributes:
        rank: 0 or more, below `size`; rank 0 computes the results and writes them.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, count: int, batch_size: int) -> range:
        """Starts of this process's batches among `count` items: whole batches, one contiguous part each.

        The batches are those that a single process makes, so that results do not even differ in rounding.
        """
        batches = math.ceil(count / batch_size)
        # Rounded up, so that rank 0 has something wherever there is anything.
        first, stop = (math.ceil(batches * rank / self.size) for rank in (self.rank, self.rank + 1))
        return range(first * batch_size, min(stop * batch_size, count), batch_size)

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks; on the others than rank 0, nothing."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size if self.main else []
        distributed.gather_object(value, gathered if self.main else None, dst=0)
        return gathered

    def from_main(self, value: T) -> T:
        """Rank 0's value, on every process."""
        if self.size == 1:
            return value
        shared = [value]
        distributed.broadcast_object_list(shared, src=0)
        return shared[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 goes through the block before the others, which then find what it has prepared."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            distributed.barrier()


ALONE = Processes()


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that a launcher started (its variables WORLD_SIZE, RANK, ...); alone where there is none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    use_local_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank=distributed.get_rank(), size=distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
