"""Where models are loaded to, and in which precision: the settings that pipeline and commands share."""

import os
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from softdecode.device import resolve_placement
from softdecode.errors import SoftDecodeError
from softdecode.memory.offload import Offload
from softdecode.memory.quantize import Quantization, quantize_nf4
from softdecode.vlm.base import ImageTokenModel
from softdecode.vlm.registry import load_vlm


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device, dtype and memory mode of a pipeline.

    Attributes:
        device: where models compute.
        dtype: of weights and arithmetic.
        offload: what waits in the CPU's memory, see `SoftDecodePipeline.from_pretrained`.
        quantize_vlm, quantize_base: see `quantize_nf4`.

    Raises:
        SoftDecodeError: an unknown mode, or modes that exclude each other.
    """

    device: torch.device
    dtype: torch.dtype
    offload: Offload = "none"
    quantize_vlm: Quantization = "none"
    quantize_base: Quantization = "none"

    def __post_init__(self) -> None:
        _check_choice("offload", self.offload, Offload)
        _check_choice("quantize_vlm", self.quantize_vlm, Quantization)
        _check_choice("quantize_base", self.quantize_base, Quantization)
        if self.offload == "sequential" and "nf4" in (self.quantize_vlm, self.quantize_base):
            raise SoftDecodeError("4-bit weights cannot be offloaded layer by layer; use the offload mode model")

    @staticmethod
    def resolve(device: str | torch.device | None, dtype: str | torch.dtype | None, **modes: Any) -> "Placement":
        """A placement on the device and in the dtype that these names mean (see `device.py`)."""
        where, kind = resolve_placement(device, dtype)
        return Placement(device=where, dtype=kind, **modes)

    def loading(self, quantization: Quantization) -> dict[str, Any]:
        """`device` and `dtype` to load a model with: on the CPU, if it is quantized or moved before it computes."""
        waits = self.offload != "none" or quantization == "nf4"
        return {"device": torch.device("cpu") if waits else self.device, "dtype": self.dtype}

    def load_vlm(self, location: str | os.PathLike[str]) -> ImageTokenModel:
        """Load a VLM, quantized if that is asked for (see `registry.load_vlm`)."""
        vlm = load_vlm(location, **self.loading(self.quantize_vlm))
        if self.quantize_vlm != "none":
            self.quantized(as_module(vlm), as_module(vlm), self.quantize_vlm)
        return vlm

    def quantized(self, module: nn.Module, part: nn.Module, quantization: Quantization) -> None:
        """Make `part` of a loaded module 4-bit, if that is asked for; weights are rounded on the way to the device."""
        if quantization == "nf4":
            quantize_nf4(part, self.dtype)
            module.to(self.device)


def as_module(vlm: ImageTokenModel) -> nn.Module:
    """The VLM as a module, which the contract does not ask for, but moving and changing weights does."""
    if not isinstance(vlm, nn.Module):
        raise SoftDecodeError(f"{vlm.name} is no torch module; it cannot be offloaded or quantized")
    return vlm


def _check_choice(name: str, given: str, choices: Any) -> None:
    if given not in get_args(choices):
        raise SoftDecodeError(f"unknown {name} {given!r}; expected {', '.join(get_args(choices))}")
