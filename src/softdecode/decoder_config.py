"""What a decoder is: the `config.json` of its folder."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from softdecode.conditioning import ConditioningMode
from softdecode.errors import SoftDecodeError
from softdecode.files import read_json

TrainedPart = Literal["none", "adapter", "attention", "lora", "all"]
ConditionSource = Literal["proxy", "teacher-forced"]
FORMAT = "softdecode-decoder-1"


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What a decoder is; stored as `config.json` in its folder.

    Attributes:
        mode: what the decoder sees of a distribution.
        code_dim: dimension d of the codebook.
        hidden_channels: width d_h of the condition encoder.
        image_size: (height, width) in pixels that it was trained at.
        base: the base model, a hub id, or a path, relative ones from the decoder's folder.
        base_revision: revision of the base on the hub.
        trained: which part of the transformer differs from the base's; "none" where not even the condition encoder
            is trained. "attention" and "all" leave out what serves text alone (see `trained.is_trained`).
        lora_rank, lora_alpha: rank and scale (alpha / rank) of the LoRA update, for trained = "lora" alone.
        codebook_sha256: identity of the codebook it was trained for.
        vlm: the VLM that codebook belongs to, for messages.
        steps: denoising steps used where none are asked for.
        draft: whether it also sees the picture that the VQ decoder makes of the chosen tokens (spec section 3, beyond
            the paper).
        source: what stood for the VLM's logits in training: the encoder's proxy, or the VLM itself, teacher-forced
            (spec section 2, beyond the paper).
        noise_scale: standard deviation of the initial noise; 1 is the flow's own, less trades
            variety for fewer artefacts (a sampling temperature).
    """

    mode: ConditioningMode
    code_dim: int
    hidden_channels: int
    image_size: tuple[int, int]
    base: str
    base_revision: str | None = None
    trained: TrainedPart = "attention"
    lora_rank: int | None = None
    lora_alpha: float | None = None
    codebook_sha256: str
    vlm: str
    steps: int = 30
    draft: bool = False
    source: ConditionSource = "proxy"
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(ConditioningMode) or self.trained not in get_args(TrainedPart):
            raise SoftDecodeError(f"unknown mode {self.mode!r} or trained part {self.trained!r} in a decoder's config")
        if self.source not in get_args(ConditionSource):
            raise SoftDecodeError(f"unknown condition source {self.source!r} in a decoder's config")
        check_lora(self.trained, self.lora_rank, self.lora_alpha)
        if self.steps < 1:
            raise SoftDecodeError(f"a decoder needs at least 1 step, its config says {self.steps}")
        if not 0 <= self.noise_scale <= 2:
            raise SoftDecodeError(f"a decoder's noise scale must lie in [0, 2], its config says {self.noise_scale}")


def check_lora(trained: TrainedPart, rank: int | None, alpha: float | None) -> None:
    """Refuse LoRA without its rank and scale, and these without LoRA."""
    if trained != "lora" and (rank, alpha) != (None, None):
        raise SoftDecodeError(f"lora_rank and lora_alpha are for trained=lora, this decoder trains {trained}")
    if trained == "lora" and not ((rank or 0) >= 1 and 0 < (alpha or 0) < math.inf):
        raise SoftDecodeError(f"LoRA needs a lora_rank of at least 1 and a lora_alpha above 0, got {rank} and {alpha}")


def base_location(folder: str | os.PathLike[str], config: DecoderConfig) -> str | Path:
    """Where a decoder's base is: a folder relative to the decoder's, if it exists, else the path or hub id itself."""
    beside = Path(folder) / config.base
    return beside.resolve() if config.base.startswith(".") or beside.is_dir() else config.base


def read_config(folder: str | os.PathLike[str]) -> DecoderConfig:
    """Read a decoder folder's `config.json`.

    Raises:
        SoftDecodeError: no decoder there, or an unknown format.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(item.name for item in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise SoftDecodeError(f"{folder} is not a decoder: looked for config.json, found {found or 'nothing'}")
    content = read_json(folder / "config.json")
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise SoftDecodeError(f"{folder / 'config.json'} is not a decoder's config (expected format {FORMAT})")
    try:
        return DecoderConfig(**{**content, "image_size": tuple(content["image_size"])})
    except (KeyError, TypeError) as error:
        raise SoftDecodeError(f"{folder / 'config.json'} is not a whole decoder config: {error}") from error
