"""Tiny VLMs of random weights, in transformers' own classes."""

import re

import pytest
import torch
from diffusers import VQModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from softdecode.vlm.chameleon import IMAGE_START as CHAMELEON_START
from softdecode.vlm.chameleon import TURN_END
from softdecode.vlm.emu3 import IMAGE_START, IMAGE_TOKEN, LINE_END

EMU3_CODES = 40
SPECIAL = ["<|pad|>", "<|bos|>", IMAGE_START, "<|image end|>", IMAGE_TOKEN, LINE_END, "<|extra_201|>"]
LETTERS = [chr(letter) for letter in range(32, 127)]


def _letters_and(special, visual):
    """A text tokenizer of letters, special tokens (padding and BOS first) and image tokens."""
    names = [*special, *LETTERS, "<image>", *visual]
    core = Tokenizer(models.BPE(vocab={name: place for place, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    found = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=special[0], bos_token=special[1])
    found.add_special_tokens({"additional_special_tokens": [*special[2:], "<image>"]})
    return found


@pytest.fixture(scope="session")
def tiny_emu3():
    """(model, text tokenizer) of an Emu3 with 40 codes, whose rows are of different lengths."""
    # Visual tokens in an order that is not the codes'.
    visual = [f"<|visual token {(7 * code) % EMU3_CODES:06d}|>" for code in range(EMU3_CODES)]
    tokenizer = _letters_and(SPECIAL, visual)
    vocabulary = tokenizer.get_vocab()
    image = {name: i for name, i in vocabulary.items() if name.startswith("<|visual token") or name == "<image>"}
    config = Emu3Config(
        text_config={
            "vocab_size": len(vocabulary),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 3,
        },
        vq_config={
            "codebook_size": EMU3_CODES,
            "embed_dim": 4,
            "latent_channels": 4,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "hidden_size": 32,
            "temporal_downsample_factor": 4,
        },
        vocabulary_map={**image, LINE_END: vocabulary[LINE_END]},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Emu3ForConditionalGeneration(config).eval().requires_grad_(False)
        for part in (model.model.text_model, model.lm_head):
            for parameter in part.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=0.3)
        codebook = model.model.vqmodel.quantize.embedding.weight
        codebook.normal_().mul_(torch.rand(EMU3_CODES, 1) * 2 + 0.2)
        for norm in model.model.vqmodel.modules():
            if isinstance(norm, torch.nn.BatchNorm3d | torch.nn.GroupNorm):
                norm.weight.normal_(mean=1, std=0.2)
    return model, tokenizer


CHAMELEON_CODES = 40


@pytest.fixture(scope="session")
def tiny_chameleon():
    """(model, VQ model, weights of `vqgan.ckpt`, text tokenizer) of a Chameleon that draws 8×8 pixels as 4×4 tokens."""
    digits = str.maketrans("0123456789", "ABCDEFGHIJ")
    visual = [f"IMGIMG{str((7 * code) % CHAMELEON_CODES).translate(digits)}Z" for code in range(CHAMELEON_CODES)]
    tokenizer = _letters_and(["<pad>", "<s>", "</s>", CHAMELEON_START, "<eoss>", TURN_END], visual)
    vocabulary = tokenizer.get_vocab()
    config = ChameleonConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        vq_config={
            "embed_dim": 6,
            "latent_channels": 8,
            "num_embeddings": CHAMELEON_CODES,
            "resolution": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 2],
            "num_res_blocks": 1,
        },
        vocabulary_map={name: vocabulary[name] for name in [*visual, "<image>"]},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vq = VQModel(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(32, 64),
            layers_per_block=1,
            latent_channels=8,
            vq_embed_dim=6,
            num_vq_embeddings=CHAMELEON_CODES,
        )
        vq = vq.eval().requires_grad_(False)
        for parameter in vq.parameters():
            parameter.copy_(0.15 * torch.randn_like(parameter) + (1 if parameter.ndim == 1 else 0))
        vq.quantize.embedding.weight.normal_().mul_(torch.rand(CHAMELEON_CODES, 1) * 2 + 0.2)
        model = ChameleonForConditionalGeneration(config).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "vqmodel" not in name:
                parameter.normal_(std=0.3)
    weights = {original_name(name): _as_convolution(name, value) for name, value in vq.state_dict().items()}
    encoder = {name: value for name, value in weights.items() if not name.startswith("decoder.")}
    model.model.vqmodel.load_state_dict(encoder)  # strictly: transformers kept the original names
    return model, vq, weights, tokenizer


def original_name(name):
    """A weight of diffusers' VQModel of two resolutions, as the original code calls it."""
    for pattern, replacement in (
        (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
        (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
        (r"up_blocks\.0\.resnets\.", "up.1.block."),
        (r"up_blocks\.1\.resnets\.", "up.0.block."),
        (r"up_blocks\.0\.upsamplers\.0\.", "up.1.upsample."),
        (r"mid_block\.resnets\.0\.", "mid.block_1."),
        (r"mid_block\.resnets\.1\.", "mid.block_2."),
        (r"mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
        (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
        (r"mid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def _as_convolution(name, value):
    return value[:, :, None, None] if ".attentions." in name and value.ndim == 2 else value
