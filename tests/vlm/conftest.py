"""Tiny VLMs of random weights, in transformers' own classes."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Emu3Config, Emu3ForConditionalGeneration, PreTrainedTokenizerFast

from softdecode.vlm.emu3 import IMAGE_START, IMAGE_TOKEN, LINE_END

EMU3_CODES = 40
SPECIAL = ["<|pad|>", "<|bos|>", IMAGE_START, "<|image end|>", IMAGE_TOKEN, LINE_END, "<|extra_201|>"]
LETTERS = [chr(letter) for letter in range(32, 127)]


def _emu3_text_tokenizer():
    """Letters, special tokens, and visual tokens in an order that is not the codes'."""
    visual = [f"<|visual token {(7 * code) % EMU3_CODES:06d}|>" for code in range(EMU3_CODES)]
    names = [*SPECIAL, *LETTERS, "<image>", *visual]
    core = Tokenizer(models.BPE(vocab={name: place for place, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    found = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", bos_token="<|bos|>")
    found.add_special_tokens({"additional_special_tokens": [*SPECIAL[2:], "<image>"]})
    return found


@pytest.fixture(scope="session")
def tiny_emu3():
    """(model, text tokenizer) of an Emu3 with 40 codes, whose rows are of different lengths."""
    tokenizer = _emu3_text_tokenizer()
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
