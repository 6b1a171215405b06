"""Loading diffusers and transformers models strictly: a key too many, too few or of the wrong shape is an error."""

import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from softdecode.errors import SoftDecodeError

Model = TypeVar("Model", bound=nn.Module)


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
    if Path(location).is_dir():
        arguments |= {"revision": None, "local_files_only": True}
    try:
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
    return model.eval().requires_grad_(False)
