"""Janus as its authors publish it: `model_type` multi_modality, read into transformers' own Janus classes.

The official code's modules and transformers' hold the same numbers under other names; sizes that the official
`config.json` does not state are read off the weights. Shards are read one at a time, memory-mapped, and never unpickled
beyond plain tensors.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Size, Tensor
from transformers import JanusConfig, JanusForConditionalGeneration, JanusVisionConfig, LlamaConfig
from transformers.models.janus.configuration_janus import JanusVQVAEConfig

from softdecode.errors import SoftDecodeError
from softdecode.files import read_json
from softdecode.shards import count_parts, fill, read_shards, renamed, rules, shard_shapes

# Official names to transformers', applied in order; names that match nothing are the same in both.
_RENAMED = rules(
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^gen_embed\.", "model.generation_embeddings."),
    (r"^gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
    (r"^gen_head\.", "model.generation_head."),
    (r"^gen_aligner\.", "model.generation_aligner."),
    (r"^aligner\.", "model.aligner."),
    (r"(aligner)\.layers\.0\.", r"\1.fc1."),
    (r"^gen_vision_model\.", "model.vqmodel."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
    (r"\.encoder\.conv_blocks\.(\d+)\.res\.", r".encoder.down.\1.block."),
    (r"\.encoder\.conv_blocks\.", ".encoder.down."),
    (r"\.decoder\.conv_blocks\.(\d+)\.res\.", r".decoder.up.\1.block."),
    (r"\.decoder\.conv_blocks\.", ".decoder.up."),
    (r"^vision_model\.vision_tower\.patch_embed\.proj\.", "model.vision_model.embeddings.patch_embedding."),
    (r"^vision_model\.vision_tower\.pos_embed$", "model.vision_model.embeddings.position_embedding.weight"),
    (r"^vision_model\.vision_tower\.norm\.", "model.vision_model.post_layernorm."),
    (r"^vision_model\.vision_tower\.blocks\.", "model.vision_model.encoder.layers."),
    (r"(vision_model\..*)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"(vision_model\..*)\.attn\.proj\.", r"\1.self_attn.projection_layer."),
)
# In the file, and in no use: the tower's pooling head, and the tokenizer's usage counter.
_UNUSED = re.compile(r"^vision_model\.vision_tower\.attn_pool\.|^gen_vision_model\.quantize\.codebook_used$")


def load_official_janus(folder: Path, dtype: torch.dtype) -> JanusForConditionalGeneration:
    """Load a folder in the layout of the official repositories, strictly.

    Args:
        folder: with `config.json` and the weights, sharded or not.
        dtype: of the loaded weights.

    Returns:
        The model in eval mode, frozen.

    Raises:
        SoftDecodeError: files missing or damaged, sizes not stated, or keys that do not fit, all of them listed.
    """
    content = read_json(folder / "config.json")
    shapes = shard_shapes(folder)
    try:
        config = official_config(content, shapes)
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise SoftDecodeError(f"{folder} is not a whole Janus checkpoint in the official layout: {error!r}") from error
    with init_empty_weights(include_buffers=False):
        model = JanusForConditionalGeneration(config)
    weights = (part for official, value in read_shards(folder) for part in converted(official, value))
    return fill(model, weights, dtype, str(folder))


def converted(official: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of transformers' Janus that an official one holds, by name; none where it is in no use."""
    if _UNUSED.search(official):
        return
    name = renamed(official, _RENAMED)
    # Layers and activations alternate in the official MLPs: layers.2, layers.4, ... are the hidden ones.
    name = re.sub(r"(aligner)\.layers\.(\d+)\.", lambda m: f"{m[1]}.hidden_layers.{int(m[2]) // 2 - 1}.", name)
    if name.endswith("position_embedding.weight"):
        value = value[0]
    if ".attn.qkv." in name and ".vision_model." in name:
        for kind, part in zip("qkv", value.chunk(3), strict=True):
            yield name.replace(".attn.qkv.", f".self_attn.{kind}_proj."), part
        return
    yield name, value


def official_config(content: Mapping[str, Any], shapes: Mapping[str, Size]) -> JanusConfig:
    """transformers' config of an official `config.json`, completed by the weights' shapes."""
    language = {k: v for k, v in content["language_config"].items() if k not in ("torch_dtype", "model_type")}
    text = LlamaConfig(**{**language, "tie_word_embeddings": False})  # untied, though nothing in the file says so
    tower = "vision_model.vision_tower"
    patch = shapes[f"{tower}.patch_embed.proj.weight"]
    vision = JanusVisionConfig(
        hidden_size=patch[0],
        num_hidden_layers=count_parts(shapes, rf"^{tower}\.blocks\.(\d+)\."),
        num_attention_heads=16 if patch[0] == 1024 else max(1, patch[0] // 16),  # SigLIP-L's; no file states them
        image_size=content["vision_config"]["params"]["image_size"],
        patch_size=patch[-1],
        mlp_ratio=shapes[f"{tower}.blocks.0.mlp.fc1.weight"][0] / patch[0],
        projection_dim=text.hidden_size,
        num_image_tokens=shapes[f"{tower}.pos_embed"][1],
        depth=content["aligner_config"]["params"]["depth"],
    )
    vq = vq16_config(
        shapes,
        "gen_vision_model.",
        projection_dim=shapes["gen_head.output_mlp_projector.weight"][0],
        image_token_embed_dim=shapes["gen_head.output_mlp_projector.weight"][1],
        num_hidden_layers=content["gen_aligner_config"]["params"]["depth"],
    )
    return JanusConfig(text_config=text, vision_config=vision, vq_config=vq, tie_word_embeddings=False)


def vq16_config(shapes: Mapping[str, Size], prefix: str = "", **others: Any) -> JanusVQVAEConfig:
    """The config of a VQ-16 tokenizer, Janus's or LlamaGen's, read off its official weights' shapes."""
    base = shapes[f"{prefix}encoder.conv_in.weight"][0]
    levels = count_parts(shapes, rf"^{re.escape(prefix)}encoder\.conv_blocks\.(\d+)\.")
    codes, dim = shapes[f"{prefix}quantize.embedding.weight"]
    return JanusVQVAEConfig(
        embed_dim=dim,
        num_embeddings=codes,
        latent_channels=shapes[f"{prefix}quant_conv.weight"][1],
        base_channels=base,
        channel_multiplier=[
            shapes[f"{prefix}encoder.conv_blocks.{level}.res.0.conv1.weight"][0] // base for level in range(levels)
        ],
        num_res_blocks=count_parts(shapes, rf"^{re.escape(prefix)}encoder\.conv_blocks\.0\.res\.(\d+)\."),
        **others,
    )
