"""The decoder of a VLM for which none is named: the embedded one where it fits, else an untrained one."""

import os
import warnings

import torch

from softdecode.base import load_base
from softdecode.decoder import DistributionDecoder
from softdecode.models import DEFAULT_BASE, DEFAULT_DECODER
from softdecode.vlm.base import ImageTokenModel


class UntrainedDecoderWarning(UserWarning):
    """The soft pictures to come do not show what was asked for, for no trained decoder is there."""


def default_decoder(
    vlm: ImageTokenModel,
    base: str | os.PathLike[str] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DistributionDecoder:
    """The embedded decoder if it is this VLM's and no base is named, else an untrained one, with a warning.

    Args:
        vlm: whose pictures are to be decoded.
        base: folder, hub id or file of the untrained decoder's base (see `load_base`); the embedded one where None.
        device: where to.
        dtype: of the weights.
    """
    tokenizer = vlm.tokenizer
    if base is None:
        embedded = DistributionDecoder.from_pretrained(DEFAULT_DECODER, device=device, dtype=dtype)
        if embedded.fits_codebook(tokenizer.codebook):
            return embedded
        origin, loaded, name = DEFAULT_BASE, embedded.base, f"the embedded base of {embedded.config.vlm}"
    else:
        origin, loaded, name = base, load_base(base, dtype=dtype), str(base)
    warnings.warn(
        f"there is no trained decoder for {vlm.name}: its soft pictures come from an untrained one on {name} and do "
        "not show the prompt, its VQ pictures do; train a decoder, and name its folder",
        UntrainedDecoderWarning,
        stacklevel=3,
    )
    return DistributionDecoder.untrained(
        loaded,
        tokenizer.codebook,
        vlm=vlm.name,
        image_size=tokenizer.image_size,
        base_name=str(origin),
    ).to(device, dtype)
