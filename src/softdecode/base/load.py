"""Which class loads a base: known from its folder, its hub repository, or a single file in FLUX's original naming."""

import os
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel

from softdecode.base.base import DecoderBase
from softdecode.base.flux import FluxBase
from softdecode.base.flux_single_file import load_flux_file, load_vae_file
from softdecode.base.sd3 import Sd3Base
from softdecode.errors import SoftDecodeError
from softdecode.files import listing, read_json
from softdecode.loading import config_file, load_pretrained, refuse_missing_folder

# `_class_name` in transformer/config.json -> the transformer's class and the base's
KINDS: dict[str, tuple[Any, type[DecoderBase]]] = {
    "FluxTransformer2DModel": (FluxTransformer2DModel, FluxBase),
    "SD3Transformer2DModel": (SD3Transformer2DModel, Sd3Base),
}
VAE_FILE = "ae.safetensors"  # what the authors of FLUX call theirs


def load_base(
    location: str | os.PathLike[str], *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> DecoderBase:
    """Load a transformer with its VAE, strictly.

    Args:
        location: a folder or hub id with the subfolders `transformer` and `vae`, as diffusers has them; or a FLUX
            transformer's safetensors file in the original naming, with the VAE beside it: `ae.safetensors` in the
            original naming, or the folder `vae`.
        revision: of the hub repository.
        dtype: of the loaded weights.

    Raises:
        SoftDecodeError: nothing there, an unknown transformer, or weights that do not fit.
    """
    if str(location).endswith(".safetensors"):
        return _from_file(Path(location), dtype)
    refuse_missing_folder(location)
    if Path(location).is_dir() and not (Path(location) / "transformer").is_dir():
        raise SoftDecodeError(
            f"{location} is not a base: looked for transformer/ and vae/, found {listing(Path(location))}; "
            "a transformer in a single file is named by the file"
        )
    config = read_json(config_file(location, revision, subfolder="transformer"))
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind not in KINDS:
        raise SoftDecodeError(f"{location} holds a {kind} transformer; softdecode knows {', '.join(KINDS)}")
    transformer_class, base_class = KINDS[kind]
    load: dict[str, Any] = {"revision": revision, "dtype": dtype}
    return base_class(
        load_pretrained(transformer_class, location, subfolder="transformer", **load),
        load_pretrained(AutoencoderKL, location, subfolder="vae", **load),
    )


def _from_file(path: Path, dtype: torch.dtype) -> FluxBase:
    if not path.is_file():
        raise SoftDecodeError(f"there is no file {path}; expected a FLUX transformer in the original naming")
    if (path.parent / VAE_FILE).is_file():
        vae = load_vae_file(path.parent / VAE_FILE, dtype)
    elif (path.parent / "vae").is_dir():
        vae = load_pretrained(AutoencoderKL, path.parent, subfolder="vae", dtype=dtype)
    else:
        raise SoftDecodeError(f"{path} has no VAE beside it: looked for {VAE_FILE} and vae/ in {path.parent}")
    return FluxBase(load_flux_file(path, dtype), vae)
