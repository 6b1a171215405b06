"""Autoencoders in the naming of latent diffusion's code (FLUX's `ae.safetensors`, Chameleon's `vqgan.ckpt`).

diffusers' AutoencoderKL and VQModel hold the same numbers under other names.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Size, Tensor

from softdecode.shards import count_parts, renamed, rules

_RENAMED = rules(
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)


def ldm_sizes(shapes: Mapping[str, Size]) -> dict[str, Any]:
    """The arguments that diffusers' autoencoders have in common, read off weights of these shapes.

    Raises:
        KeyError: a weight that all of them have is not there.
    """
    levels = count_parts(shapes, r"^encoder\.down\.(\d+)\.")
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)),
        "layers_per_block": count_parts(shapes, r"^encoder\.down\.0\.block\.(\d+)\."),
    }


def converted_ldm(original: str, value: Tensor, levels: int) -> tuple[str, Tensor]:
    """The name and tensor of diffusers' class for an original one; `levels` is the number of resolutions."""
    name = renamed(original, _RENAMED)
    # diffusers counts the decoder's levels from the coarsest, the original from the finest.
    name = re.sub(r"\.up\.(\d+)\.block\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.resnets.", name)
    name = re.sub(r"\.up\.(\d+)\.upsample\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.", name)
    if ".attentions." in name and value.ndim == 4:  # the original writes them as 1×1 convolutions
        value = value[:, :, 0, 0]
    return name, value
