"""Teacher forcing: the belief that a VLM has about pictures it did not draw, in one parallel pass (spec section 2).

The belief at every token of a real image, given its caption and the true tokens before, is what a decoder meets when
the VLM draws: no proxy stands in for the VLM, and no calibration is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.mapping import TokenDistribution, map_logits
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel, SamplingConfig
from softdecode.vlm.sampling import tempered

_POSITIONS_AT_ONCE = 64  # logits of so many tokens of each image exist at a time


def map_forced(
    logits_at: Callable[[slice], tuple[Tensor, Tensor | None]],
    tokens: Tensor,
    *,
    codebook: Tensor,
    sampling: SamplingConfig,
    calibration: Calibration | None = None,
) -> TokenDistribution:
    """The distribution of true tokens under the VLM's belief at their places.

    Args:
        logits_at: given a slice of the N places, the conditional and unconditional logits [B, n, V] there; the latter
            None where guidance is off.
        tokens: [B, h, w] int64, the chosen codes of the result.
        codebook, sampling, calibration: see `ImageTokenModel`.
    """
    calibration = calibration or Calibration()
    flat = tokens.flatten(1)
    parts = []
    for start in range(0, flat.shape[1], _POSITIONS_AT_ONCE):
        places = slice(start, start + _POSITIONS_AT_ONCE)
        belief = calibration.for_vlm(tempered(*logits_at(places), sampling))
        parts.append(map_logits(belief[:, None], codebook, tokens=flat[:, None, places]))
    return TokenDistribution(
        tokens=tokens,
        codes=torch.cat([part.codes for part in parts], dim=2).view(*tokens.shape, -1),
        uncertainty=torch.cat([part.uncertainty for part in parts], dim=2).view(*tokens.shape, -1),
    )


def belief_about(
    vlm: ImageTokenModel,
    tokens: Tensor,
    captions: Sequence[str | None] | None,
    *,
    sampling: SamplingConfig | None = None,
    calibration: Calibration | None = None,
) -> TokenDistribution:
    """`ImageTokenModel.teacher_force` of images of which some have no caption: their belief is the unconditional one.

    Args:
        vlm: whose belief; its device has the result.
        tokens: [B, h, w] int64, the images.
        captions: B captions, each may be None; None for none at all.
        sampling, calibration: see `ImageTokenModel.teacher_force`.

    Raises:
        SoftDecodeError: another number of captions, or what `teacher_force` refuses.
    """
    captions = [None] * len(tokens) if captions is None else captions
    if len(captions) != len(tokens):
        raise SoftDecodeError(f"{len(tokens)} images need as many captions, or none at all, got {len(captions)}")
    captioned = [place for place, caption in enumerate(captions) if caption is not None]
    others = [place for place, caption in enumerate(captions) if caption is None]
    prompts = [caption for caption in captions if caption is not None]
    parts = [
        vlm.teacher_force(asked, tokens[places], sampling=sampling, calibration=calibration)
        for places, asked in ((captioned, prompts), (others, None))
        if places
    ]
    order = torch.tensor([*captioned, *others]).argsort()
    return TokenDistribution(
        tokens=tokens,
        codes=torch.cat([part.codes for part in parts])[order],
        uncertainty=torch.cat([part.uncertainty for part in parts])[order],
    )


def settle_forcing(
    prompts: Sequence[str] | None, tokens: Tensor, tokenizer: ImageTokenizer, sampling: SamplingConfig
) -> SamplingConfig:
    """The settings that hold: without prompts there is nothing to guide the belief with.

    Raises:
        SoftDecodeError: tokens that are no images of this tokenizer, or a number of prompts that differs from theirs.
    """
    height, width = tokenizer.grid
    if tokens.dtype != torch.int64 or tokens.ndim != 3 or tuple(tokens.shape[1:]) != (height, width):
        raise SoftDecodeError(f"tokens must be int64 [B, {height}, {width}], got {tokens.dtype} {list(tokens.shape)}")
    codes = len(tokenizer.codebook)
    if not len(tokens) or not 0 <= int(tokens.min()) <= int(tokens.max()) < codes:
        raise SoftDecodeError(f"there must be images, and their tokens must lie in [0, {codes})")
    if prompts is not None and len(prompts) != len(tokens):
        raise SoftDecodeError(f"{len(tokens)} images need as many prompts, or none at all, got {len(prompts)}")
    return sampling if prompts is not None else replace(sampling, guidance_scale=1.0)
