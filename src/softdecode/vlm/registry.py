"""Which class loads a VLM: known from the folder's or the hub's `config.json`, imported only when needed."""

import importlib
import os
from typing import Any, cast

import torch

from softdecode.errors import SoftDecodeError
from softdecode.files import read_json
from softdecode.loading import config_file
from softdecode.vlm.base import ImageTokenModel

# model_type in config.json -> "module:Class" with a `from_pretrained`
FAMILIES: dict[str, str] = {
    "janus": "softdecode.vlm.janus:JanusModel",
    "multi_modality": "softdecode.vlm.janus:JanusModel",  # Janus in its authors' own layout
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
        raise SoftDecodeError(f"the config.json of {location} names no model_type; it is not that of a VLM")
    if model_type not in FAMILIES:
        raise SoftDecodeError(f"{location} is a {model_type!r} model; softdecode knows {', '.join(sorted(FAMILIES))}")
    module, _, name = FAMILIES[model_type].partition(":")
    family: Any = getattr(importlib.import_module(module), name)
    return cast(ImageTokenModel, family.from_pretrained(location, revision=revision, device=device, dtype=dtype))
