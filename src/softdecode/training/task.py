"""What can be trained: a module with its data and its loss."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError


class Task(nn.Module):
    """One thing to train: its parameters, its data and its loss.

    Everything random in a step comes from the generators that the step is given, so that a resumed run repeats the
    numbers of an uninterrupted one. Each sample has a generator of its own, so that it is the same in whichever part of
    the batch, on whichever process, it is made.
    """

    samples: int
    """Number of samples in the training data."""
    endless: bool = False
    """Whether the data is a stream: indices then say how many samples are wanted, not which."""
    whole_batches: bool = False
    """Whether the loss is no mean over samples, so that a batch cannot be divided among processes or micro-batches."""

    def batch(self, indices: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The training batch of these sample indices [B] int64, augmented.

        Args:
            indices: a contiguous part of the step's batch, or all of it.
            generators: B CPU generators, one for each sample.
        """
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Scalar losses by name, means over the samples; `loss` is what is minimised, the rest is logged."""
        raise NotImplementedError

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Work between optimiser steps that is no gradient step."""

    # --- what it is made of -------------------------------------------------------------------------------------------

    def blocks(self) -> list[nn.Module]:
        """The repeated transformer blocks, which are compiled and sharded one by one; none where there are none."""
        return []

    def compile_blocks(self) -> None:
        """Compile the repeated blocks in place, where there are any; called once, if the config asks for it."""
        for block in self.blocks():
            block.compile()

    def checkpoint_activations(self) -> None:
        """Keep only the repeated blocks' inputs for the backward pass, which computes the rest again.

        Raises:
            SoftDecodeError: there are no blocks that can.
        """
        raise SoftDecodeError(f"{type(self).__name__} has no blocks whose activations could be computed again")

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside transformer blocks, which the optimiser muon takes; none where there are no blocks."""
        return []

    def moved_tensors(self) -> dict[str, Tensor]:
        """What training changes without gradients, by name; checkpoints hold it beside the trained parameters."""
        return {}

    # --- data ---------------------------------------------------------------------------------------------------------

    def names(self, indices: Tensor) -> list[str] | None:
        """What the data calls these samples, for messages; None where it has no names for them."""
        return None

    def data_state(self) -> dict[str, Any]:
        """Where this process is in its data, as plain JSON, where indices do not say it all (streams)."""
        return {}

    def load_data_state(self, state: dict[str, Any]) -> None:
        """Go on where `data_state` was taken."""

    def preview(self, step: int) -> Image.Image | None:
        """A picture of what has been learnt; None where there is nothing to show."""
        return None
