"""Stops a run whose loss is not finite, or explodes."""

import math
from collections.abc import Mapping

from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.training.config import LoopConfig
from softdecode.training.task import Task

_HORIZON = 100  # steps that the running mean looks back


class LossGuard:
    """Watches the losses of a run, the same on every process.

    Attributes:
        mean: running mean of the loss.
        count: losses seen; both are part of a checkpoint, so that a resumed run stops where the first one would.
    """

    def __init__(self, config: LoopConfig) -> None:
        self._ratio = config.max_loss_ratio
        self._start = config.warmup_steps
        self.mean = 0.0
        self.count = 0

    def check(self, step: int, losses: Mapping[str, float], indices: Tensor, task: Task) -> None:
        """Look at the losses of a step, before the optimiser does.

        Raises:
            SoftDecodeError: one is not finite, or `loss` is too many times its running mean; names the samples.
        """
        loss = losses["loss"]
        if not all(math.isfinite(value) for value in losses.values()):
            raise SoftDecodeError(f"training diverged at step {step + 1}: {_described(losses, indices, task)}")
        if self._ratio and self.count and step >= self._start and loss > self._ratio * self.mean:
            raise SoftDecodeError(
                f"the loss exploded at step {step + 1}: it is {loss:.4g}, its running mean {self.mean:.4g}, and "
                f"--loop.max-loss-ratio allows {self._ratio:g} times that: {_described(losses, indices, task)}"
            )
        self.count += 1
        self.mean += (loss - self.mean) / min(self.count, _HORIZON)


def _described(losses: Mapping[str, float], indices: Tensor, task: Task) -> str:
    names = task.names(indices)
    keys = "" if names is None else f", {', '.join(names)}"
    return f"{dict(losses)}; samples {indices.tolist()}{keys}"
