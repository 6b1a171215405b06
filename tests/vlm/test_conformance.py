"""Every family of ours holds the contract, on tiny models of random weights."""

import pytest
import torch

from softdecode.training.tokenizer import TokenizerConfig, build_tokenizer
from softdecode.training.vlm import VlmConfig, build_vlm, train_text_tokenizer
from softdecode.vlm.chameleon import ChameleonModel, ChameleonTokenizer
from softdecode.vlm.conformance import VlmConformance
from softdecode.vlm.emu3 import Emu3Model
from softdecode.vlm.janus_tokenizer import JanusTokenizer
from softdecode.vlm.llamagen.captions import left_padded
from softdecode.vlm.llamagen.gpt import GptConfig, LlamaGenGpt
from softdecode.vlm.llamagen.model import LlamaGenModel

CODES, DIM = 48, 4


def tokenizer():
    """16×16 pixels to 4×4 tokens, with code vectors of different lengths."""
    model = build_tokenizer(
        TokenizerConfig(codes=CODES, code_dim=DIM, base_channels=32, channel_multiplier=(1, 1, 1)), 16, 32
    )
    model = model.eval().requires_grad_(False)
    model.quantize.embedding.weight.mul_(torch.rand(CODES, 1) * 3 + 0.2)
    return model


def enlarge(model, std):
    """Weights with which the logits depend on everything before them."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(std=std)


class TestJanus(VlmConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def vlm(cls):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = VlmConfig(hidden_size=32, intermediate_size=64, layers=2, heads=2, vocabulary=300)
            vlm = build_vlm(config, tokenizer(), train_text_tokenizer(list(cls.prompts), 300))
            vlm = vlm.eval().requires_grad_(False)
            janus = vlm.model.model
            for part in (janus.language_model, janus.generation_embeddings, janus.generation_aligner):
                enlarge(part, 0.25)
            enlarge(janus.generation_head, 0.4)
        return vlm


def llamagen(captions=None, **condition):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GptConfig(dim=32, layers=2, heads=2, ffn_dim=64, codes=CODES, grid=4, **condition)
        gpt = LlamaGenGpt(config).eval().requires_grad_(False)
        enlarge(gpt, 0.3)
        return LlamaGenModel(gpt, JanusTokenizer(tokenizer()), captions)


class TestLlamaGenClasses(VlmConformance):
    prompts = ("3", "0", "7")

    @pytest.fixture(scope="class")
    @classmethod
    def vlm(cls):
        return llamagen(condition_tokens=1, classes=10)


class TestEmu3(VlmConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def vlm(cls, tiny_emu3):
        model, tokenizer = tiny_emu3
        return Emu3Model(model, tokenizer, image_size=(8, 6), prompt_suffix="", negative_prompt="bad")


class TestChameleon(VlmConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def vlm(cls, tiny_chameleon):
        model, vq, _, tokenizer = tiny_chameleon
        return ChameleonModel(model, ChameleonTokenizer(vq, (8, 6)), tokenizer)


class LetterCaptions(torch.nn.Module):
    """Stands in for flan-T5: a fixed random vector for each letter."""

    def forward(self, prompts):
        table = torch.randn(128, 6, generator=torch.Generator().manual_seed(1))
        embeddings, mask = torch.zeros(len(prompts), 24, 6), torch.zeros(len(prompts), 24, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            embeddings[row, : len(prompt)] = table[[ord(letter) for letter in prompt]]
            mask[row, : len(prompt)] = 1
        return left_padded(embeddings, mask)


class TestLlamaGenCaptions(VlmConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def vlm(cls):
        return llamagen(LetterCaptions(), condition_tokens=24, caption_dim=6)
