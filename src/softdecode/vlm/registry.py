"""Which class loads a VLM: known from the folder's or the hub's `config.json`, imported only when needed."""

import importlib
import os
from importlib.metadata import entry_points
from typing import Any, cast

import torch
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.errors import SoftDecodeError
from softdecode.files import read_json
from softdecode.loading import config_file, load_pretrained
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel
from softdecode.vlm.janus_tokenizer import JanusTokenizer

ENTRY_POINTS = "softdecode.vlm"
_TOKENIZER = "janus_vqgan"  # the model_type of a JanusVQVAE's own config.json
# model_type in config.json -> "module:Class" with a `from_pretrained`
FAMILIES: dict[str, str] = {
    "janus": "softdecode.vlm.janus:JanusModel",
    "multi_modality": "softdecode.vlm.janus:JanusModel",  # Janus in its authors' own layout
    "chameleon": "softdecode.vlm.chameleon:ChameleonModel",  # and Anole
    "emu3": "softdecode.vlm.emu3:Emu3Model",
    "llamagen": "softdecode.vlm.llamagen.model:LlamaGenModel",
}


def load_vlm(
    location: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ImageTokenModel:
    """Load a VLM from a folder or hub id, by the class that its `config.json` asks for.

    Raises:
        SoftDecodeError: nothing there, an unknown model type, or weights that do not fit.
    """
    config = read_json(config_file(location, revision))
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type is None:
        raise SoftDecodeError(
            f"the config.json of {location} names no model_type; it is not that of a VLM (LlamaGen's checkpoint files "
            "are made a model folder by `softdecode convert-llamagen`)"
        )
    known = families()
    if model_type not in known:
        raise SoftDecodeError(f"{location} is a {model_type!r} model; softdecode knows {', '.join(sorted(known))}")
    module, _, name = known[model_type].partition(":")
    try:
        family: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SoftDecodeError(f"the family {model_type!r} names {known[model_type]}, which fails: {error}") from error
    return cast(ImageTokenModel, family.from_pretrained(location, revision=revision, device=device, dtype=dtype))


def load_vlm_or_tokenizer(
    location: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[ImageTokenModel | None, ImageTokenizer]:
    """A VLM and its tokenizer, or a tokenizer alone: a folder with a transformers JanusVQVAE.

    Raises:
        SoftDecodeError: see `load_vlm`.
    """
    config = read_json(config_file(location, revision))
    if isinstance(config, dict) and config.get("model_type") == _TOKENIZER:
        model = load_pretrained(JanusVQVAE, location, revision=revision, dtype=dtype)
        return None, JanusTokenizer(model).to(device)
    vlm = load_vlm(location, revision=revision, device=device, dtype=dtype)
    return vlm, vlm.tokenizer


def families() -> dict[str, str]:
    """All known families: those of installed packages, by entry points of the group `softdecode.vlm`, and ours.

    An entry point's name is a `model_type`, its value "module:Class". Ours cannot be replaced.
    """
    others = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    return {**others, **FAMILIES}
