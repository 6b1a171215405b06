"""LlamaGen's checkpoint files, which have no folder layout of their own, and the folder that we make of them.

The authors publish single files: the transformer's, the tokenizer's, and flan-T5 as a folder. `convert_llamagen` reads
them once and writes `config.json`, `gpt.safetensors` and `vq.safetensors`, which load like any other model.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_folder, check_fit, read_json, write_json, write_tensors
from softdecode.shards import count_parts, fill, read_checkpoint, read_safetensors
from softdecode.vlm.janus_official import converted, vq16_config
from softdecode.vlm.janus_tokenizer import JanusTokenizer
from softdecode.vlm.llamagen.gpt import GptConfig, LlamaGenGpt

# (layers, width) to attention heads, which no file states: B, L, XL, XXL, XXXL, 1B, 3B, 7B.
HEADS = {
    (12, 768): 12, (24, 1024): 16, (36, 1280): 20, (48, 1536): 24,
    (48, 2560): 40, (22, 2048): 32, (24, 3200): 32, (32, 4096): 32,
}  # fmt: skip
_STRIDE = 16
Model = TypeVar("Model", bound=nn.Module)


def convert_llamagen(
    gpt: Path, vq: Path, output: Path, *, captions: str | None = None, image_size: int = 256, heads: int | None = None
) -> None:
    """Write a model folder from the authors' files, replacing it as a whole.

    Args:
        gpt: the transformer's checkpoint, t2i or c2i, bare or wrapped.
        vq: the tokenizer's checkpoint (VQ-16).
        output: the folder to write.
        captions: flan-T5's folder, which is copied, or hub id, for caption models.
        image_size: side of the pictures in pixels that the transformer draws.
        heads: attention heads, where the size is none of the published ones.

    Raises:
        SoftDecodeError: damaged files, files of something else, or a size that does not fit.
    """
    if image_size < _STRIDE or image_size % _STRIDE:
        raise SoftDecodeError(f"image size {image_size} does not fit the tokenizer; use a multiple of {_STRIDE}")
    weights = read_checkpoint(gpt)
    config = gpt_config(weights, grid=image_size // _STRIDE, heads=heads, origin=str(gpt))
    if (captions is None) != (config.caption_dim is None):
        raise SoftDecodeError(
            f"{gpt} draws {'classes' if captions else 'captions'}; "
            f"{'give no caption encoder' if captions else 'name the folder or hub id of flan-T5'}"
        )
    with init_empty_weights(include_buffers=False):
        model = LlamaGenGpt(config)
    _filled(model, weights, str(gpt))
    tokens = read_checkpoint(vq)
    tokenizer = build_tokenizer(tokens, config.grid, str(vq))
    if tokenizer.config.num_embeddings != config.codes:
        raise SoftDecodeError(f"{gpt} has {config.codes} image tokens, {vq} {tokenizer.config.num_embeddings}")
    with atomic_folder(output) as folder:
        write_tensors(folder / "gpt.safetensors", dict(model.state_dict()))
        write_tensors(folder / "vq.safetensors", dict(tokenizer.state_dict()))
        copied = captions is not None and Path(captions).is_dir()
        if copied:
            shutil.copytree(str(captions), folder / "t5")
        content = {
            "model_type": "llamagen",
            "gpt": asdict(config),
            "vq": tokenizer.config.to_diff_dict(),
            "captions": "t5" if copied else captions,
        }
        write_json(folder / "config.json", content)


def load_parts(folder: Path, dtype: torch.dtype) -> tuple[LlamaGenGpt, JanusTokenizer, dict[str, Any]]:
    """Transformer, tokenizer and `config.json` of a folder that `convert_llamagen` wrote, strictly."""
    content = read_json(folder / "config.json")
    try:
        gpt_sizes = GptConfig(**content["gpt"])
        vq_sizes = JanusVQVAEConfig(**content["vq"])
    except (KeyError, TypeError) as error:
        raise SoftDecodeError(f"{folder / 'config.json'} is not that of a converted LlamaGen: {error!r}") from error
    with init_empty_weights(include_buffers=False):
        gpt, vq = LlamaGenGpt(gpt_sizes), JanusVQVAE(vq_sizes)
    for model, name in ((gpt, "gpt.safetensors"), (vq, "vq.safetensors")):
        fill(model, read_safetensors(folder / name), dtype, str(folder / name))
    return gpt, JanusTokenizer(vq), content


def gpt_config(weights: Mapping[str, Tensor], *, grid: int, heads: int | None, origin: str) -> GptConfig:
    """Sizes of an official transformer, read off its weights."""
    try:
        codes, dim = weights["tok_embeddings.weight"].shape
        layers = count_parts(weights, r"^layers\.(\d+)\.")
        ffn_dim = weights["layers.0.feed_forward.w1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise SoftDecodeError(f"{origin} is no LlamaGen transformer: it lacks {error}") from error
    if heads is None and (layers, dim) not in HEADS:
        raise SoftDecodeError(
            f"{origin} has {layers} layers of width {dim}, which is none of LlamaGen's sizes; say how many heads it has"
        )
    sizes: dict[str, Any] = {"dim": dim, "layers": layers, "ffn_dim": ffn_dim, "codes": codes, "grid": grid}
    sizes["heads"] = HEADS[layers, dim] if heads is None else heads
    if (table := weights.get("cls_embedding.embedding_table.weight")) is not None:
        return GptConfig(**sizes, condition_tokens=1, classes=len(table) - 1)
    if (empty := weights.get("cls_embedding.uncond_embedding")) is None:
        raise SoftDecodeError(f"{origin} is no LlamaGen transformer: it has neither captions nor classes")
    return GptConfig(**sizes, condition_tokens=empty.shape[0], caption_dim=empty.shape[1])


def build_tokenizer(weights: Mapping[str, Tensor], grid: int, origin: str | os.PathLike[str]) -> JanusVQVAE:
    """VQ-16 in transformers' class, which has the same structure under other names."""
    try:
        config = vq16_config({name: value.shape for name, value in weights.items()}, num_patches=grid)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise SoftDecodeError(f"{origin} is no VQ-16 tokenizer: it lacks {error}") from error
    renamed = {}
    for official, value in weights.items():
        for name, part in converted(f"gen_vision_model.{official}", value):
            renamed[name.removeprefix("model.vqmodel.")] = part
    with init_empty_weights(include_buffers=False):
        model = JanusVQVAE(config)
    return _filled(model, renamed, str(origin))


def _filled(model: Model, weights: Mapping[str, Tensor], origin: str) -> Model:
    """Give a model without weights these, strictly and without a copy."""
    check_fit(
        {name: value.shape for name, value in model.state_dict().items()},
        {name: value.shape for name, value in weights.items()},
        origin,
    )
    model.load_state_dict(dict(weights), assign=True)
    return model
