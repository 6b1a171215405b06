"""Published models at their real sizes, on the meta device: to know what they need before fetching them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, VQModel
from torch import nn
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    LlamaConfig,
    StaticCache,
    T5Config,
    T5EncoderModel,
)
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.base import DecoderBase, FluxBase, Sd3Base
from softdecode.vlm.base import ImageTokenizer
from softdecode.vlm.chameleon import ChameleonTokenizer
from softdecode.vlm.emu3 import Emu3Tokenizer
from softdecode.vlm.janus_tokenizer import JanusTokenizer
from softdecode.vlm.llamagen.gpt import GptConfig, KeyValues, LlamaGenGpt, attention_mask

PROMPT_TOKENS = 64  # of a usual prompt
FORCED_AT_ONCE = 64  # places of a picture whose logits exist at a time in teacher forcing


@dataclass(frozen=True, kw_only=True)
class VlmSketch:
    """A VLM without weights.

    Attributes:
        module: all of its weights.
        tokenizer: its VQ side, part of the module.
        draw: runs the longest forward passes of drawing a batch with guidance: the prompt's, and the last token's.
        force: runs the one parallel pass that tells its guided belief about a batch of pictures (teacher forcing).
    """

    module: nn.Module
    tokenizer: ImageTokenizer
    draw: Callable[[int], None]
    force: Callable[[int], None]


def janus(width: int, ffn: int, layers: int, heads: int, dtype: torch.dtype) -> VlmSketch:
    """Janus and Janus-Pro: a Llama, SigLIP-L and VQ-16 at 384 px."""
    text = LlamaConfig(
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=102_400,
    )
    vq = JanusVQVAEConfig(projection_dim=width, image_token_embed_dim=width, num_hidden_layers=2)
    config = JanusConfig(text_config=text, vision_config=JanusVisionConfig(projection_dim=width, depth=2), vq_config=vq)
    config.tie_word_embeddings = False
    with torch.device("meta"):
        model: Any = JanusForConditionalGeneration(config)
    model.to(dtype)
    tokenizer = JanusTokenizer(model.model.vqmodel)

    draw, force = _passes(model.model.language_model, model.model.generation_head, text, 24 * 24, dtype)
    return VlmSketch(module=model, tokenizer=tokenizer, draw=draw, force=force)


def emu3(dtype: torch.dtype) -> VlmSketch:
    """Emu3-Gen at 720 px: 90 rows of 90 tokens and a line end."""
    config = Emu3Config(vocabulary_map={})
    text: Any = config.text_config
    with torch.device("meta"):
        model: Any = Emu3ForConditionalGeneration(config)
    model.to(dtype)
    draw, force = _passes(model.model.text_model, model.lm_head, text, 90 * 91, dtype)
    tokenizer = Emu3Tokenizer(model.model.vqmodel, (720, 720))
    return VlmSketch(module=model, tokenizer=tokenizer, draw=draw, force=force)


def chameleon(dtype: torch.dtype) -> VlmSketch:
    """Chameleon and Anole of 7B at 512 px, with the VQ decoder that transformers leaves out."""
    config = ChameleonConfig(vocabulary_map={})
    with torch.device("meta"):
        model: Any = ChameleonForConditionalGeneration(config)
        vq = VQModel(
            down_block_types=("DownEncoderBlock2D",) * 5,
            up_block_types=("UpDecoderBlock2D",) * 5,
            block_out_channels=(128, 128, 256, 256, 512),
            layers_per_block=2,
            latent_channels=256,
            vq_embed_dim=256,
            num_vq_embeddings=8192,
        )
    module = nn.ModuleDict({"model": model, "vq": vq}).to(dtype)
    draw, force = _passes(model.model, model.lm_head, config, 32 * 32, dtype)
    return VlmSketch(module=module, tokenizer=ChameleonTokenizer(vq), draw=draw, force=force)


def _passes(
    language: Any, head: nn.Module, config: Any, positions: int, dtype: torch.dtype
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """`VlmSketch.draw` and `VlmSketch.force` of a language model of transformers that draws over so many positions."""
    total = PROMPT_TOKENS + positions

    def embeddings(batch: int, length: int) -> torch.Tensor:
        return torch.empty(2 * batch, length, config.hidden_size, dtype=dtype, device="meta")

    def draw(batch: int) -> None:
        cache = StaticCache(config=config, max_cache_len=total)
        for length, start in ((PROMPT_TOKENS, 0), (1, total - 1)):
            places = torch.arange(start, start + length, device="meta")[None]
            output = language(
                inputs_embeds=embeddings(batch, length), position_ids=places, past_key_values=cache, use_cache=True
            )
            head(output.last_hidden_state[:, -1])

    def force(batch: int) -> None:
        places = torch.arange(total, device="meta")[None]
        mask = torch.empty(2 * batch, 1, total, total, dtype=torch.bool, device="meta")  # given, or data decides it
        output = language(
            inputs_embeds=embeddings(batch, total), attention_mask=mask, position_ids=places, use_cache=False
        )
        head(output.last_hidden_state[:, -FORCED_AT_ONCE:])

    return draw, force


def llamagen(width: int, layers: int, heads: int, image_size: int, dtype: torch.dtype) -> VlmSketch:
    """LlamaGen text-to-image: its transformer, VQ-16, and flan-T5-XL's encoder for captions."""
    ffn = -(-int(8 * width / 3) // 256) * 256
    config = GptConfig(
        dim=width,
        layers=layers,
        heads=heads,
        ffn_dim=ffn,
        codes=16_384,
        grid=image_size // 16,
        condition_tokens=120,
        caption_dim=2048,
    )
    t5_config = T5Config(
        d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, feed_forward_proj="gated-gelu", vocab_size=32_128
    )
    with torch.device("meta"):
        gpt = LlamaGenGpt(config)
        t5 = T5EncoderModel(t5_config)
        vq = JanusVQVAE(JanusVQVAEConfig(num_patches=config.grid))
    module = nn.ModuleDict({"gpt": gpt, "t5": t5, "vq": vq}).to(dtype)

    def draw(batch: int) -> None:
        start, total = config.condition_tokens, config.condition_tokens + config.grid**2
        ids = torch.empty(batch, start, dtype=torch.int64, device="meta")
        captions = t5(input_ids=ids).last_hidden_state
        condition = gpt.cls_embedding(torch.cat([captions, captions]))
        mask = attention_mask(torch.empty(2 * batch, start, device="meta"), total)
        cache = KeyValues(config, 2 * batch, total, condition)
        gpt(condition, mask[:, :, :start, :start], cache=cache)
        gpt(condition[:, :1], mask[:, :, -1:], start=total - 1, cache=cache)

    def force(batch: int) -> None:
        total = config.condition_tokens + config.grid**2
        t5(input_ids=torch.empty(batch, config.condition_tokens, dtype=torch.int64, device="meta"))
        embeds = torch.empty(2 * batch, total, width, dtype=dtype, device="meta")
        gpt(embeds, attention_mask(torch.empty(2 * batch, config.condition_tokens, device="meta"), total))

    return VlmSketch(module=module, tokenizer=JanusTokenizer(vq), draw=draw, force=force)


def flux(channels: int, guidance: bool, dtype: torch.dtype) -> DecoderBase:
    """FLUX.1: 19 double and 38 single blocks of width 3072."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(in_channels=channels, out_channels=64, guidance_embeds=guidance)
        return FluxBase(transformer, _vae(0.1159, 0.3611)).to(dtype)


def sd3(layers: int, heads: int, dual: int, size: int, dtype: torch.dtype, norm: str | None) -> DecoderBase:
    """Stable Diffusion 3 and 3.5."""
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(
            sample_size=128,
            num_layers=layers,
            num_attention_heads=heads,
            caption_projection_dim=64 * heads,
            joint_attention_dim=4096,
            pooled_projection_dim=2048,
            pos_embed_max_size=size,
            dual_attention_layers=tuple(range(dual)),
            qk_norm=norm,
        )
        return Sd3Base(transformer, _vae(0.0609, 1.5305)).to(dtype)


def _vae(shift: float, scale: float) -> AutoencoderKL:
    """The VAE of FLUX.1 and of SD3: 16 channels, stride 8."""
    sizes: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    return AutoencoderKL(**sizes, shift_factor=shift, scaling_factor=scale)


# Name -> a function of the dtype.
VLMS: dict[str, Callable[[torch.dtype], VlmSketch]] = {
    "janus-pro-1b": lambda dtype: janus(2048, 5632, 24, 16, dtype),
    "janus-pro-7b": lambda dtype: janus(4096, 11_008, 30, 32, dtype),
    "emu3-gen": emu3,
    "anole-7b": chameleon,
    "llamagen-xl-256": lambda dtype: llamagen(1280, 36, 20, 256, dtype),
    "llamagen-xl-512": lambda dtype: llamagen(1280, 36, 20, 512, dtype),
}
BASES: dict[str, Callable[[torch.dtype], DecoderBase]] = {
    "flux-fill": lambda dtype: flux(384, True, dtype),
    "flux-dev": lambda dtype: flux(64, True, dtype),
    "flux-schnell": lambda dtype: flux(64, False, dtype),
    "sd3-medium": lambda dtype: sd3(24, 24, 0, 192, dtype, None),
    "sd3.5-medium": lambda dtype: sd3(24, 24, 13, 384, dtype, "rms_norm"),
}
