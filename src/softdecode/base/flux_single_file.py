"""FLUX as its authors publish it: single safetensors files in the original naming.

diffusers' classes hold the same numbers under other names. Sizes, which the files do not state, are read off the
weights; tensors are read one at a time.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Size, Tensor

from softdecode.errors import SoftDecodeError
from softdecode.ldm_naming import converted_ldm, ldm_sizes
from softdecode.shards import count_parts, fill, read_safetensors, renamed, rules, safetensors_shapes

_PREFIX = "model.diffusion_model."  # some tools put it in front of every name
_TRANSFORMER = rules(
    (rf"^{re.escape(_PREFIX)}", ""),
    (r"^img_in\.", "x_embedder."),
    (r"^txt_in\.", "context_embedder."),
    (r"^time_in\.", "time_text_embed.timestep_embedder."),
    (r"^guidance_in\.", "time_text_embed.guidance_embedder."),
    (r"^vector_in\.", "time_text_embed.text_embedder."),
    (r"\.in_layer\.", ".linear_1."),
    (r"\.out_layer\.", ".linear_2."),
    (r"^final_layer\.linear\.", "proj_out."),
    (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear."),
    (r"^double_blocks\.", "transformer_blocks."),
    (r"\.img_mod\.lin\.", ".norm1.linear."),
    (r"\.txt_mod\.lin\.", ".norm1_context.linear."),
    (r"\.img_attn\.norm\.(query|key)_norm\.scale$", r".attn.norm_\1.weight"),
    (r"\.txt_attn\.norm\.(query|key)_norm\.scale$", r".attn.norm_added_\1.weight"),
    (r"\.img_attn\.proj\.", ".attn.to_out.0."),
    (r"\.txt_attn\.proj\.", ".attn.to_add_out."),
    (r"\.img_mlp\.0\.", ".ff.net.0.proj."),
    (r"\.img_mlp\.2\.", ".ff.net.2."),
    (r"\.txt_mlp\.0\.", ".ff_context.net.0.proj."),
    (r"\.txt_mlp\.2\.", ".ff_context.net.2."),
    (r"^single_blocks\.", "single_transformer_blocks."),
    (r"\.modulation\.lin\.", ".norm.linear."),
    (r"\.(\d+)\.norm\.(query|key)_norm\.scale$", r".\1.attn.norm_\2.weight"),
    (r"\.linear2\.", ".proj_out."),
    (r"(norm_(?:added_)?)query\.", r"\1q."),
    (r"(norm_(?:added_)?)key\.", r"\1k."),
)
# FLUX.1's VAE; its file holds weights alone.
_SHIFT, _SCALE = 0.1159, 0.3611


def load_flux_file(path: Path, dtype: torch.dtype) -> FluxTransformer2DModel:
    """Load a transformer of FLUX.1 (dev, schnell, Fill) in the original naming, strictly.

    Raises:
        SoftDecodeError: a damaged file, one of another model, or keys that do not fit, all of them listed.
    """
    shapes = {name.removeprefix(_PREFIX): shape for name, shape in safetensors_shapes(path).items()}
    try:
        config = flux_config(shapes)
    except (KeyError, ValueError) as error:
        raise SoftDecodeError(f"{path} is no FLUX transformer in the original naming: it lacks {error}") from error
    with init_empty_weights(include_buffers=False):
        model = FluxTransformer2DModel(**config)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    weights = (part for name, value in read_safetensors(path) for part in converted_flux(name, value, width))
    return fill(model, weights, dtype, str(path))


def load_vae_file(path: Path, dtype: torch.dtype) -> AutoencoderKL:
    """Load FLUX.1's VAE (`ae.safetensors`), strictly.

    Raises:
        SoftDecodeError: a damaged file, one of another model, or keys that do not fit, all of them listed.
    """
    shapes = safetensors_shapes(path)
    try:
        config = vae_config(shapes)
    except (KeyError, ValueError) as error:
        raise SoftDecodeError(f"{path} is no VAE in the original naming: it lacks {error}") from error
    with init_empty_weights(include_buffers=False):
        model = AutoencoderKL(**config)
    levels = len(config["block_out_channels"])
    weights = (converted_ldm(name, value, levels) for name, value in read_safetensors(path))
    return fill(model, weights, dtype, str(path))


def flux_config(shapes: Mapping[str, Size]) -> dict[str, Any]:
    """The arguments of FluxTransformer2DModel that fit weights of these shapes."""
    width, channels = shapes["img_in.weight"]
    head = shapes["single_blocks.0.norm.query_norm.scale"][0]
    axis = head * 7 // 32 * 2  # 56 of FLUX's 128, for rows and columns each; the rest is not used for images
    return {
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0],
        "num_layers": count_parts(shapes, r"^double_blocks\.(\d+)\."),
        "num_single_layers": count_parts(shapes, r"^single_blocks\.(\d+)\."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": (head - 2 * axis, axis, axis),
    }


def vae_config(shapes: Mapping[str, Size]) -> dict[str, Any]:
    """The arguments of AutoencoderKL that fit weights of these shapes."""
    sizes = ldm_sizes(shapes)
    return {
        **sizes,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "norm_num_groups": min(32, *sizes["block_out_channels"]),
        "shift_factor": _SHIFT,
        "scaling_factor": _SCALE,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }


def converted_flux(original: str, value: Tensor, width: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors of diffusers' transformer that an original one holds, by name; `width` is the transformer's."""
    name = renamed(original, _TRANSFORMER)
    if name.startswith("norm_out."):  # the original has shift before scale, diffusers scale before shift
        shift, scale = value.chunk(2)
        yield name, torch.cat([scale, shift])
        return
    if found := re.search(r"\.(img|txt)_attn\.qkv\.", name):
        kinds = ("to_q", "to_k", "to_v") if found[1] == "img" else ("add_q_proj", "add_k_proj", "add_v_proj")
        for kind, part in zip(kinds, value.chunk(3), strict=True):
            yield name.replace(found[0], f".attn.{kind}."), part
        return
    if ".linear1." in name:
        sizes = [width, width, width, len(value) - 3 * width]
        for kind, part in zip(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), value.split(sizes), strict=True):
            yield name.replace(".linear1.", f".{kind}."), part
        return
    yield name, value
