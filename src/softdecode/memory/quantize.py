"""4-bit weights (NF4; Dettmers et al. 2023, arXiv 2305.14314) by bitsandbytes, for VLM and base separately."""

from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from softdecode.errors import SoftDecodeError
from softdecode.lora import lora_layers
from softdecode.memory.blocks import blocks

Quantization = Literal["none", "nf4"]
NF4_BITS = 4.5  # a weight's four, and a float32 scale for each 64 weights


def quantize_nf4(module: nn.Module, compute_dtype: torch.dtype) -> int:
    """Replace the linear layers of a model's blocks by 4-bit ones, in place, one by one.

    Embeddings, heads, norms and what is outside of the blocks keep their dtype, and so do layers that transformers
    keeps in float32. Weights are rounded to 4 bits when the model moves to its device.

    Args:
        module: a VLM, or a base's transformer, on the CPU.
        compute_dtype: of the arithmetic.

    Returns:
        How many layers were replaced.

    Raises:
        SoftDecodeError: bitsandbytes is not installed.
    """
    bitsandbytes = _bitsandbytes()
    chosen = _quantizable(module)
    for parent, name, linear in chosen:
        setattr(parent, name, _nf4_linear(bitsandbytes, linear, compute_dtype))
    return len(chosen)


def quantizable_weights(module: nn.Module) -> set[int]:
    """The ids of the weights that `quantize_nf4` would make 4-bit."""
    return {id(linear.weight) for _, _, linear in _quantizable(module)}


def _quantizable(module: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name in it, layer) of the layers that `quantize_nf4` replaces."""
    kept = _kept_in_float32(module) | lora_layers(module)  # what was trained is small, and stays as it was trained
    return [
        (parent, name, child)
        for block in blocks(module)
        for parent in block.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and id(child) not in kept
    ]


def _nf4_linear(bitsandbytes: Any, linear: nn.Linear, compute_dtype: torch.dtype) -> nn.Module:
    bias = linear.bias is not None
    quantized = bitsandbytes.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=bias, compute_dtype=compute_dtype, quant_type="nf4", device="meta"
    )
    quantized.weight = bitsandbytes.nn.Params4bit(linear.weight.detach(), requires_grad=False, quant_type="nf4")
    quantized.bias = linear.bias
    return quantized


def _kept_in_float32(module: nn.Module) -> set[int]:
    """Ids of layers that transformers' models name as too sensitive, such as T5's `wo`."""
    found = set()
    for model in module.modules():
        if not isinstance(model, PreTrainedModel):
            continue
        names = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
        found |= {id(part) for name, part in model.named_modules() if names & set(name.split("."))}
    return found


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise SoftDecodeError("4-bit weights need bitsandbytes; install softdecode[quant]") from error
    return bitsandbytes
