"""What drawing and decoding need, phase by phase: weights by counting, the rest by a run on the meta device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from softdecode.base import DecoderBase
from softdecode.errors import SoftDecodeError
from softdecode.latents import vae_stride
from softdecode.memory.blocks import blocks
from softdecode.memory.catalogue import BASES, VLMS, VlmSketch
from softdecode.memory.offload import Offload
from softdecode.memory.peak import PeakMemory, model_tensors, tensor_bytes
from softdecode.memory.quantize import NF4_BITS, Quantization, quantizable_weights

PHASES = ("draw", "VQ decode", "denoise", "VAE decode")
# (offload, quantization of both), from most memory to least
MODES: tuple[tuple[Offload, Quantization], ...] = (
    ("none", "none"),
    ("model", "none"),
    ("none", "nf4"),
    ("model", "nf4"),
    ("sequential", "none"),
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Memory of one VLM and base in one mode, in bytes.

    Attributes:
        vlm, base: their names.
        offload, quantization: the mode; quantization is of both.
        vlm_weights, base_weights: of all their parameters, wherever they are; the base's with its VAE.
        phases: the device's peak in each phase: weights that are there, and what computing takes.
    """

    vlm: str
    base: str
    offload: Offload
    quantization: Quantization
    vlm_weights: int
    base_weights: int
    phases: dict[str, int]

    @property
    def peak(self) -> int:
        """Of all phases."""
        return max(self.phases.values())


def estimate(vlm: str, base: str, *, batch: int = 1, dtype: torch.dtype = torch.bfloat16) -> list[Estimate]:
    """Estimates for all modes.

    Peaks are of eager attention, which a fused kernel undercuts; the allocator's own waste is not in them.

    Args:
        vlm, base: names in the catalogue.
        batch: images at a time, drawn with guidance.
        dtype: of weights and arithmetic.

    Raises:
        SoftDecodeError: an unknown name, or fewer than one image.
    """
    for kind, name, known in (("VLM", vlm, VLMS), ("base", base, BASES)):
        if name not in known:
            raise SoftDecodeError(f"there is no size of a {kind} {name!r} on record; known are {', '.join(known)}")
    if batch < 1:
        raise SoftDecodeError(f"the batch must be at least 1, got {batch}")
    drawing, decoding = VLMS[vlm](dtype), BASES[base](dtype)
    working = working_memory(drawing, decoding, batch, dtype)
    weights = {kind: model_bytes(drawing.module, decoding, kind) for kind in get_args(Quantization)}
    return [
        Estimate(
            vlm=vlm,
            base=base,
            offload=offload,
            quantization=quantization,
            vlm_weights=weights[quantization][0],
            base_weights=weights[quantization][1],
            phases={
                phase: resident_bytes(drawing.module, decoding, weights[quantization], phase, offload) + working[phase]
                for phase in PHASES
            },
        )
        for offload, quantization in MODES
    ]


@torch.no_grad()
def working_memory(vlm: VlmSketch, base: DecoderBase, batch: int, dtype: torch.dtype) -> dict[str, int]:
    """Peak bytes of each phase beside the weights: activations, key-value cache, logits."""
    known = model_tensors(vlm.module, base)
    grid, size = vlm.tokenizer.grid, vlm.tokenizer.image_size
    rows, columns = base.token_grid(size)
    stride = vae_stride(base.vae)

    def empty(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(batch, *shape, dtype=kind, device="meta")

    def denoise() -> None:
        tokens = empty(rows * columns, base.token_channels, kind=torch.float32)
        condition = empty(rows * columns, base.token_dim)
        base.velocity(tokens, empty(kind=torch.float32), condition, (rows, columns))

    def decode() -> None:
        latents: Any = empty(base.latent_channels, size[0] // stride, size[1] // stride)  # a FloatTensor upstream
        base.vae.decode(latents, return_dict=False)

    return {
        "draw": _peak(lambda: vlm.draw(batch), known),
        "VQ decode": _peak(lambda: vlm.tokenizer.decode(empty(*grid, kind=torch.int64)), known),
        "denoise": _peak(denoise, known),
        "VAE decode": _peak(decode, known),
    }


def weight_bytes(module: nn.Module, quantized: nn.Module | None = None) -> int:
    """Bytes of a module's weights and buffers, shared ones counted once; `quantized` is the part that is 4-bit."""
    small = set() if quantized is None else quantizable_weights(quantized)
    whole = tensor_bytes(tensor for tensor in model_tensors(module) if id(tensor) not in small)
    packed = sum(weight.numel() for weight in module.parameters() if id(weight) in small)
    return whole + round(packed * NF4_BITS / 8)


def model_bytes(vlm: nn.Module, base: DecoderBase, quantization: Quantization) -> tuple[int, int]:
    """Bytes of the VLM's weights, and of the base's with its VAE, which is never quantized."""
    if quantization == "none":
        return weight_bytes(vlm), weight_bytes(base)
    return weight_bytes(vlm, vlm), weight_bytes(base, base.transformer)


def resident_bytes(vlm: nn.Module, base: DecoderBase, both: tuple[int, int], phase: str, offload: Offload) -> int:
    """Bytes of the weights that are on the device in a phase; `both` as from `model_bytes`."""
    if offload == "none":
        return sum(both)
    mine = 0 if phase in PHASES[:2] else 1
    if offload == "model":
        return both[mine]
    outside = sum(tensor_bytes(model_tensors(m)) - tensor_bytes(_in_blocks(m)) for m in (vlm, base))
    layers = [part for block in blocks((vlm, base)[mine]) for part in block.modules()]
    return outside + max(tensor_bytes(part.parameters(recurse=False)) for part in layers)


def _in_blocks(module: nn.Module) -> list[torch.Tensor]:
    return [tensor for block in blocks(module) for tensor in model_tensors(block)]


def _peak(run: Callable[[], None] | Callable[[], torch.Tensor], known: list[torch.Tensor]) -> int:
    with PeakMemory(known) as memory:
        run()
    return memory.peak
