"""The condition: a grid of codes and uncertainty becomes tokens that are added to the transformer's own.

Paper section B.3, equations 19 to 23; spec section 3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.mapping import UNCERTAINTY_FEATURES, TokenDistribution

ConditioningMode = Literal["hard", "soft", "joint"]


def condition_inputs(
    distribution: TokenDistribution, codebook: Tensor, mode: ConditioningMode
) -> tuple[Tensor, Tensor]:
    """What each mode lets the decoder see of a distribution.

    - hard: the chosen codes' vectors, uncertainty zero (the baseline of the paper's Table 4);
    - soft: the expected codes and the uncertainty (the paper's method);
    - joint: chosen and expected codes side by side, and the uncertainty (ours: later tokens were conditioned on the
      chosen one).

    Args:
        distribution: B images on a grid h × w.
        codebook: [V, d], L2-normalised rows.
        mode: one of the above.

    Returns:
        Code vectors [B, h, w, d], or [B, h, w, 2d] for joint, and uncertainty [B, h, w, 4], float32.
    """
    if mode not in get_args(ConditioningMode):
        raise SoftDecodeError(f"unknown conditioning mode {mode!r}; expected {', '.join(get_args(ConditioningMode))}")
    expected, uncertainty = distribution.codes.float(), distribution.uncertainty.float()
    if expected.shape[-1] != codebook.shape[-1]:
        raise SoftDecodeError(
            f"the distribution's codes have {expected.shape[-1]} dimensions, the codebook {codebook.shape[-1]}"
        )
    if mode == "soft":
        return expected, uncertainty
    if distribution.tokens.numel() and not 0 <= int(distribution.tokens.min()) <= int(distribution.tokens.max()) < len(
        codebook
    ):
        raise SoftDecodeError(f"tokens must lie in [0, {len(codebook)}); the distribution is of another codebook")
    chosen = codebook.to(expected.device, torch.float32)[distribution.tokens]
    if mode == "hard":
        return chosen, torch.zeros_like(uncertainty)
    return torch.cat([chosen, expected], dim=-1), uncertainty


class ConditionEncoder(nn.Module):
    """Equations 19 to 22: Y = W_c·concat(act(norm(conv3×3(linear(codes)))), uncertainty).

    W_c is zero-initialised, so that before training the conditioned transformer is the pretrained one.

    Args:
        code_channels: d, or 2d for the mode joint.
        hidden_channels: d_h, a multiple of 8 (GroupNorm's groups).
        token_dim: width D of the transformer.
        draft_channels: channels 4C of a draft's packed latents, 0 where there is no draft (spec section 3, beyond the
            paper: the VQ decoder's picture as a further condition, projected and added, zero-initialised like W_c).
    """

    def __init__(self, code_channels: int, hidden_channels: int, token_dim: int, draft_channels: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(code_channels, hidden_channels)
        self.conv = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1)
        self.norm = nn.GroupNorm(8, hidden_channels)
        self.projection = nn.Linear(hidden_channels + len(UNCERTAINTY_FEATURES), token_dim)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.draft = nn.Linear(draft_channels, token_dim, bias=False) if draft_channels else None
        if self.draft is not None:
            nn.init.zeros_(self.draft.weight)

    def forward(self, codes: Tensor, uncertainty: Tensor, grid: tuple[int, int], draft: Tensor | None = None) -> Tensor:
        """Condition tokens [B, H·W, D] on the transformer's token grid.

        Args:
            codes: [B, h, w, code_channels].
            uncertainty: [B, h, w, 4].
            grid: the transformer's token grid (H, W); where it differs from (h, w), both inputs are interpolated
                bilinearly (spec section 3).
            draft: [B, H·W, draft_channels], the packed latents of the VQ decoder's picture; given exactly where
                the encoder has channels for it.

        Raises:
            SoftDecodeError: a draft is missing, or given to an encoder without one.
        """
        if (draft is None) != (self.draft is None):
            raise SoftDecodeError(
                "this decoder has no use for a draft"
                if self.draft is None
                else "this decoder also sees the VQ decoder's picture; give it as the draft"
            )
        dtype = self.linear.weight.dtype
        hidden = self.linear(codes.to(dtype)).permute(0, 3, 1, 2)
        hidden = F.silu(self.norm(self.conv(_resize(hidden, grid))))
        features = torch.cat([hidden, _resize(uncertainty.to(hidden.dtype).permute(0, 3, 1, 2), grid)], dim=1)
        tokens = self.projection(features.flatten(2).transpose(1, 2))
        return tokens if self.draft is None or draft is None else tokens + self.draft(draft.to(dtype))


def _resize(grid_features: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(grid_features.shape[-2:]) == tuple(grid):
        return grid_features
    return F.interpolate(grid_features, size=grid, mode="bilinear", align_corners=False)


@contextmanager
def added_to(embedder: nn.Module, condition: Tensor) -> Iterator[None]:
    """While the block runs, `condition` is added to whatever `embedder` returns (equation 23: H0 = X + Y).

    This is all that a base transformer needs to become conditional: no wrapper, no new keys in its weights.
    """

    def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        if output.shape != condition.shape:
            raise SoftDecodeError(
                f"the condition's tokens are {list(condition.shape)}, the transformer's {list(output.shape)}; "
                "the picture's size does not fit the token grid"
            )
        return output + condition

    handle = embedder.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
