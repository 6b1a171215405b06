"""The optimiser of a training run: AdamW alone, or Muon for a transformer's hidden matrices and AdamW for the rest."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.training.sharding import parted_like

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

    def named_state(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
        """Each parameter's state as tensors named `AdamW/exp_avg/the.parameter`, in an order that all processes share.

        Args:
            parameters: what is trained, by name.
        """
        names = {id(parameter): name for name, parameter in parameters.items()}
        for member in self.members:
            for group in member.param_groups:
                for parameter in group["params"]:
                    for key, value in member.state.get(parameter, {}).items():
                        yield f"{type(member).__name__}/{key}/{names[id(parameter)]}", value

    def load_named_state(
        self, tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], origin: str
    ) -> None:
        """Restore what `named_state` gave, whole tensors, however the parameters are sharded.

        Raises:
            SoftDecodeError: the state is of other optimisers or parameters.
        """
        states: dict[tuple[str, str], dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, key, parameter = name.split("/", 2)
            states.setdefault((kind, parameter), {})[key] = tensor
        names = {id(parameter): name for name, parameter in parameters.items()}
        for member in self.members:
            listed = [parameter for group in member.param_groups for parameter in group["params"]]
            restored = {}
            for place, parameter in enumerate(listed):
                state = states.pop((type(member).__name__, names[id(parameter)]), None)
                if state is not None:
                    restored[place] = {key: _fitted(value, parameter, origin) for key, value in state.items()}
            member.load_state_dict({"state": restored, "param_groups": member.state_dict()["param_groups"]})
        if states:
            found = sorted({kind for kind, _ in states})
            raise SoftDecodeError(
                f"{origin} is of another model or optimiser: it has {', '.join(found)} for {len(states)} weights that "
                f"these optimisers ({', '.join(type(member).__name__ for member in self.members)}) do not train"
            )


def _fitted(value: Tensor, parameter: nn.Parameter, origin: str) -> Tensor:
    """A counter as it is, a moment as the parameter is sharded."""
    if value.ndim == 0:
        return value
    if value.shape != parameter.shape:
        raise SoftDecodeError(
            f"{origin} is of another model: a moment is {list(value.shape)} for {list(parameter.shape)}"
        )
    return parted_like(parameter, value)


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
