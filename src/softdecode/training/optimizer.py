"""The optimiser of a training run: AdamW alone, or Muon for a transformer's hidden matrices and AdamW for the rest."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from softdecode.errors import SoftDecodeError

OptimizerName = Literal["adamw", "muon"]


class Optimizers:
    """Several optimisers, each with its own parameters, used as one."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = list(members)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all members; changing a group's entries changes the member's."""
        return [group for member in self.members for group in member.param_groups]

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def step(self) -> None:
        for member in self.members:
            member.step()

    def state_dict(self) -> dict[str, Any]:
        return {type(member).__name__: member.state_dict() for member in self.members}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the state is of other optimisers.
        """
        expected = [type(member).__name__ for member in self.members]
        if sorted(state) != sorted(expected):
            raise ValueError(f"the state is of the optimisers {sorted(state)}, expected {sorted(expected)}")
        for member in self.members:
            member.load_state_dict(state[type(member).__name__])


def build_optimizers(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    hidden_matrices: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> Optimizers:
    """The optimisers of a run; weight decay goes to matrices and kernels, none to biases, norms and scales.

    Args:
        name: adamw for everything; or muon (Jordan et al. 2024; the size of its updates matched to AdamW's as in Liu
            et al. 2025, arXiv 2502.16982, so that one learning rate serves both) for the hidden matrices and AdamW for
            the rest.
        parameters: all that is trained; those without `requires_grad` are left out.
        hidden_matrices: the 2-D weights inside the transformer's blocks, a part of the parameters.
        learning_rate, betas, weight_decay: see `LoopConfig`.

    Raises:
        SoftDecodeError: muon where there are no hidden matrices, or with a torch that has none (before 2.9).
    """
    trained = [p for p in parameters if p.requires_grad]
    chosen = [p for p in hidden_matrices if p.requires_grad] if name == "muon" else []
    members: list[torch.optim.Optimizer] = []
    if name == "muon":
        if not chosen:
            raise SoftDecodeError("muon is for transformers, and this has no hidden matrices; use adamw")
        if not hasattr(torch.optim, "Muon"):
            raise SoftDecodeError(
                f"muon needs torch 2.9 or later, this is {torch.__version__}; update it, or use adamw"
            )
        members.append(
            torch.optim.Muon(chosen, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    taken = {id(p) for p in chosen}
    rest = [p for p in trained if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    members.append(torch.optim.AdamW(groups, lr=learning_rate, betas=betas))
    return Optimizers(members)
