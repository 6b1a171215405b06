"""Which weights of a decoder are trained, and therefore saved with it.

The paper trains "attention and adapter"; LoRA and everything are the other choices (spec section 3).
"""

import re
from typing import TYPE_CHECKING

import torch
from torch import nn

from softdecode.decoder_config import TrainedPart

if TYPE_CHECKING:
    from softdecode.decoder import DistributionDecoder

# diffusers' names. The second attention of SD3.5's dual blocks is `attn2`.
_ATTENTION = re.compile(r"\.attn2?\.")
# What only text tokens or the pooled text vector pass through. There are none and it is zero, so these weights change
# nothing and their gradient is exactly zero; trained, they would only decay, and fill memory and files.
_TEXT = re.compile(
    r"(^|\.)(context_embedder|norm1_context|ff_context|add_[qkv]_proj|norm_added_[qk]|to_add_out)\."
    r"|^time_text_embed\.text_embedder\.linear_1\.weight$"
)
_LORA = ".lora_"  # peft's layers: `lora_A` and `lora_B`


def is_text(name: str) -> bool:
    """Whether a transformer's parameter serves text alone, which is excluded."""
    return _TEXT.search(name) is not None


def is_trained(name: str, part: TrainedPart) -> bool:
    """Whether a transformer's parameter, by diffusers' name, belongs to the trained part."""
    if part == "lora":
        return _LORA in name
    if part not in ("attention", "all") or is_text(name):
        return False
    return part == "all" or _ATTENTION.search(name) is not None


def trained_parameters(decoder: "DistributionDecoder") -> dict[str, nn.Parameter]:
    """A decoder's trained parameters, by the names `condition.*` (the paper's adapter) and `transformer.*`."""
    part = decoder.config.trained
    if part == "none":
        return {}
    condition = {f"condition.{name}": weight for name, weight in decoder.condition.named_parameters()}
    transformer = decoder.base.transformer.named_parameters()
    return condition | {f"transformer.{name}": weight for name, weight in transformer if is_trained(name, part)}


def train_only(decoder: "DistributionDecoder") -> None:
    """Freeze a decoder but for its trained parameters, and bring those to float32.

    The frozen weights keep their dtype. Trained ones need float32: a step of learning rate 1e-5 is less than bfloat16
    can add to a weight. Under autocast both are computed with in bfloat16.
    """
    decoder.requires_grad_(False)
    for weight in trained_parameters(decoder).values():
        weight.data = weight.data.to(torch.float32)
        weight.requires_grad_(True)
