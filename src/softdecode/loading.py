"""Loading diffusers and transformers models strictly: a key too many, too few or of the wrong shape is an error."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from softdecode.errors import SoftDecodeError
from softdecode.files import listing

_MODEL_FILES = ["*.json", "*.safetensors", "*.bin", "*.ckpt", "*.model", "*.txt", "*.jinja"]
Model = TypeVar("Model", bound=nn.Module)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own progress bars and reports off standard error while the block runs."""
    bars = transformers_logging.is_progress_bar_enabled(), diffusers_logging.is_progress_bar_enabled()
    levels = transformers_logging.get_verbosity(), diffusers_logging.get_verbosity()
    for logging in (transformers_logging, diffusers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    try:
        yield
    finally:
        for logging, bar, level in zip((transformers_logging, diffusers_logging), bars, levels, strict=True):
            logging.set_verbosity(level)
            if bar:
                logging.enable_progress_bar()


def save_quietly(model: Any, folder: str | os.PathLike[str]) -> None:
    """`model.save_pretrained(folder)` without the libraries' progress bars."""
    with quiet_libraries():
        model.save_pretrained(folder)


def refuse_missing_folder(location: str | os.PathLike[str]) -> None:
    """Refuse a path that is no folder, rather than ask the hub for it; `owner/name` may be a hub id."""
    path = Path(location).expanduser()
    looks_local = path.is_absolute() or str(location).startswith((".", "~")) or len(path.parts) > 2
    if path.exists() and not path.is_dir():
        raise SoftDecodeError(f"{location} is a file; expected a model folder")
    if looks_local and not path.is_dir():
        raise SoftDecodeError(f"there is no folder {location}; expected a model folder or a hub id")


def config_file(location: str | os.PathLike[str], revision: str | None = None, *, subfolder: str = "") -> Path:
    """The `config.json` of a model folder or hub id, or of a subfolder there.

    Raises:
        SoftDecodeError: there is none.
    """
    refuse_missing_folder(location)
    folder = Path(location) / subfolder
    if Path(location).is_dir():
        if not (folder / "config.json").is_file():
            raise SoftDecodeError(f"{folder} is not a model folder: looked for config.json, found {listing(folder)}")
        return folder / "config.json"
    try:
        return Path(hf_hub_download(str(location), "config.json", subfolder=subfolder or None, revision=revision))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise _not_found(location, error) from error


def local_folder(location: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder itself, or a hub id's files fetched into the hub's cache: configs, text tokenizer and weights.

    Raises:
        SoftDecodeError: neither a folder nor a model on the hub.
    """
    refuse_missing_folder(location)
    if Path(location).is_dir():
        return Path(location)
    try:
        return Path(snapshot_download(str(location), revision=revision, allow_patterns=_MODEL_FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise _not_found(location, error) from error


def _not_found(location: str | os.PathLike[str], error: Exception) -> SoftDecodeError:
    reason = " ".join(str(error).split())[:200]
    return SoftDecodeError(f"{location} is neither a folder nor a model on the hub: {reason}")


def load_pretrained(
    model_class: type[Model],
    location: str | os.PathLike[str],
    *,
    subfolder: str = "",
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Model:
    """`model_class.from_pretrained` with every deviation between file and model an error.

    Args:
        model_class: a diffusers or transformers model class.
        location: a folder, or a hub id.
        subfolder: where in it the model lies.
        revision: of the hub repository.
        dtype: of the loaded weights.

    Returns:
        The model in eval mode, frozen.

    Raises:
        SoftDecodeError: nothing there, damaged files, or keys that do not fit, all of them listed.
    """
    where = f"{location}/{subfolder}" if subfolder else str(location)
    arguments: dict[str, Any] = {"subfolder": subfolder, "revision": revision, "torch_dtype": dtype}
    if "transformers" in model_class.__module__:
        arguments["dtype"] = arguments.pop("torch_dtype")
        arguments["ignore_mismatched_sizes"] = True  # then they are listed, and refused below
    refuse_missing_folder(location)
    if Path(location).is_dir():
        arguments |= {"revision": None, "local_files_only": True}
    try:
        with quiet_libraries():
            model, info = model_class.from_pretrained(  # type: ignore[attr-defined]
                str(location), output_loading_info=True, use_safetensors=True, **arguments
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise SoftDecodeError(f"cannot load {model_class.__name__} from {where}: {reason}") from error
    problems = [
        f"{len(info[key])} {word}: {', '.join(sorted(str(k) for k in info[key]))}"
        for key, word in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "unexpected"),
            ("mismatched_keys", "misshaped"),
            ("error_msgs", "in error"),
        )
        if info.get(key)
    ]
    if problems:
        raise SoftDecodeError(f"the weights in {where} do not fit {model_class.__name__}: {'; '.join(problems)}")
    if hasattr(model.config, "name_or_path"):
        model.config.name_or_path = ""  # where it was loaded from is no business of what is saved from it
    return model.eval().requires_grad_(False)
