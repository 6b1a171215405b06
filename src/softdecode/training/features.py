"""The frozen encoders' outputs on the training pictures, computed once."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from softdecode.files import read_tensors, tensor_sha256, write_tensors
from softdecode.images import to_uint8, to_unit_range
from softdecode.latents import encode_images
from softdecode.seeds import generator_for
from softdecode.training.augment import augment
from softdecode.vlm.base import ImageTokenizer, nearest_tokens

_VERSION = "3"  # raise it when the augmentation or the arithmetic changes


@dataclass(frozen=True, kw_only=True)
class Features:
    """What decoder training reads instead of pictures.

    Attributes:
        codes: [M, h, w, d] bfloat16, VQ encoder features before quantisation.
        latents: [M, C, H', W'] bfloat16, scaled VAE latents of the same pictures.
        drafts: [M, C, H', W'] bfloat16, those of the pictures that the VQ decoder makes of them.
    """

    codes: Tensor
    latents: Tensor
    drafts: Tensor


def encode(
    images: Tensor, tokenizer: ImageTokenizer, vae: AutoencoderKL, *, views: int, seed: int, cache: Path
) -> Features:
    """Encode each picture in several augmented views, or read the result of doing so from the cache.

    The cached file is named after everything that went into it, so a changed picture, model, view or seed never reads
    old features.

    Args:
        images: [M, 3, H, W] uint8.
        tokenizer, vae: the frozen encoders.
        views: augmented views of each picture; the first is the picture itself.
        seed: of the augmentation.
        cache: folder of the cached file.

    Returns:
        views·M rows; row v·M + i is view v of picture i.
    """
    scale = f"{vae.config['shift_factor']} {vae.config['scaling_factor']}"
    parts = [_VERSION, tensor_sha256(images), _identity(tokenizer), _identity(vae), scale, str(views), str(seed)]
    path = cache / f"features-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}.safetensors"
    if not path.is_file():
        encoded = []
        for view in range(views):
            generators = [generator_for("view", seed, view, place) for place in range(len(images))]
            seen = images if view == 0 else augment(images, generators)
            encoded += [_encode(part, tokenizer, vae) for part in seen.split(64)]
        write_tensors(path, {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]})
    tensors, _ = read_tensors(path)
    return Features(**tensors)


@torch.inference_mode()
def _encode(images: Tensor, tokenizer: ImageTokenizer, vae: AutoencoderKL) -> dict[str, Tensor]:
    """Features of pictures [B, 3, H, W] uint8, by name. They are kept in bfloat16, so they are computed in it."""
    unit = to_unit_range(images)
    with torch.autocast(images.device.type, torch.bfloat16):
        codes = tokenizer.features(unit)
        latents = encode_images(vae, unit)
        pictures = to_uint8(tokenizer.decode(nearest_tokens(codes, tokenizer.codebook)))
        drafts = encode_images(vae, to_unit_range(pictures))
    named = {"codes": codes, "latents": latents, "drafts": drafts}
    return {name: value.to(torch.bfloat16).contiguous() for name, value in named.items()}


def _identity(model: object) -> str:
    """A hash over all of a module's weights."""
    assert isinstance(model, torch.nn.Module)
    flat = torch.cat([value.detach().float().flatten().cpu() for value in model.state_dict().values()])
    return tensor_sha256(flat)
