"""Which class loads a VLM: known from the folder's or the hub's `config.json`, imported only when needed."""

import importlib
import os
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from softdecode.errors import SoftDecodeError
from softdecode.files import read_json
from softdecode.loading import refuse_missing_folder
from softdecode.vlm.base import ImageTokenModel

# model_type in config.json -> "module:Class" with a `from_pretrained`
FAMILIES: dict[str, str] = {"janus": "softdecode.vlm.janus:JanusModel"}


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
    config = read_json(_config_file(location, revision))
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type is None:
        raise SoftDecodeError(f"the config.json of {location} names no model_type; it is not that of a VLM")
    if model_type not in FAMILIES:
        raise SoftDecodeError(f"{location} is a {model_type!r} model; softdecode knows {', '.join(sorted(FAMILIES))}")
    module, _, name = FAMILIES[model_type].partition(":")
    family: Any = getattr(importlib.import_module(module), name)
    return cast(ImageTokenModel, family.from_pretrained(location, revision=revision, device=device, dtype=dtype))


def _config_file(location: str | os.PathLike[str], revision: str | None) -> Path:
    refuse_missing_folder(location)
    folder = Path(location)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            found = ", ".join(sorted(item.name for item in folder.iterdir())[:10]) or "nothing"
            raise SoftDecodeError(f"{folder} is not a model folder: looked for config.json, found {found}")
        return folder / "config.json"
    try:
        return Path(hf_hub_download(str(location), "config.json", revision=revision))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SoftDecodeError(f"{location} is neither a folder nor a model on the hub: {reason}") from error
