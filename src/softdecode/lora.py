"""LoRA (Hu et al. 2021, arXiv 2106.09685) on a base's attention projections, by peft through diffusers."""

from typing import Any

from torch import nn

from softdecode.errors import SoftDecodeError

# The projections that image tokens pass through; those of text have no use (see trained.py).
TARGETS = r".*\.attn2?\.(to_q|to_k|to_v|to_out\.0)"
_ADAPTER = "default"  # peft's name for the only adapter, which it puts into every weight's name


def add_lora(transformer: Any, rank: int, alpha: float) -> None:
    """Add LoRA layers to a diffusers transformer, in place; as long as they are untrained they change nothing.

    Args:
        transformer: without any LoRA as yet.
        rank: of the update of each projection.
        alpha: the update is scaled by alpha / rank.

    Raises:
        SoftDecodeError: peft is not installed, or there is LoRA in the transformer already.
    """
    refuse_lora(transformer)
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise SoftDecodeError("LoRA needs peft; install softdecode[train]") from error
    # peft's annotation knows whole alphas only; its arithmetic is a division
    config: Any = {"r": rank, "lora_alpha": alpha, "target_modules": TARGETS, "lora_dropout": 0.0, "bias": "none"}
    transformer.add_adapter(LoraConfig(**config), adapter_name=_ADAPTER)


def refuse_lora(transformer: nn.Module) -> None:
    """Refuse a transformer that carries another decoder's LoRA, which would take part in every picture.

    Raises:
        SoftDecodeError: there is one.
    """
    if getattr(transformer, "peft_config", None):
        raise SoftDecodeError("the base already has LoRA layers in it, of another decoder; load the base afresh")


def plain_name(name: str) -> str:
    """A LoRA weight's name in files, as diffusers writes it: without peft's name of the adapter."""
    return name.replace(f".{_ADAPTER}.", ".")


def lora_layers(module: nn.Module) -> set[int]:
    """The ids of the small matrices' layers (A and B) inside a module."""
    parents = [part for part in module.modules() if hasattr(part, "lora_A") and hasattr(part, "lora_B")]
    found: set[int] = set()
    for parent in parents:
        for pair in (parent.lora_A, parent.lora_B):
            assert isinstance(pair, nn.Module)
            found |= {id(layer) for layer in pair.modules()}
    return found
