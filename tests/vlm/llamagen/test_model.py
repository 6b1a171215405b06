"""LlamaGen as a VLM: conversion, captions, sampling against the official code's sequences, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from softdecode.errors import SoftDecodeError
from softdecode.shards import read_checkpoint
from softdecode.vlm.base import ImageTokenModel, SamplingConfig, nearest_tokens
from softdecode.vlm.janus_tokenizer import JanusTokenizer
from softdecode.vlm.llamagen.captions import clean_caption, left_padded
from softdecode.vlm.llamagen.checkpoint import build_tokenizer, convert_llamagen
from softdecode.vlm.llamagen.gpt import GptConfig, LlamaGenGpt, attention_mask
from softdecode.vlm.llamagen.model import LlamaGenModel
from softdecode.vlm.registry import load_vlm

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden LlamaGen checkpoints, which are not here")
VQ = GOLDEN / "llamagen_vq" / "mini_f32" / "vq_ds16_tiny.pt"
GREEDY = {
    "t2i": SamplingConfig(guidance_scale=7.5, temperature=0),
    "c2i": SamplingConfig(guidance_scale=4, temperature=0),
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The golden models in our folder layout."""
    folder = tmp_path_factory.mktemp("llamagen")
    for kind, captions in (("t2i", str(GOLDEN / "llamagen_t2i" / "t5-ckpt" / "flan-t5-xl")), ("c2i", None)):
        source = GOLDEN / f"llamagen_{kind}" / f"{kind}_tiny.pt"
        convert_llamagen(source, VQ, folder / kind, captions=captions, image_size=128, heads=4)
    return folder


# --- the tokenizer ------------------------------------------------------------------------------------------------


@golden
@pytest.mark.parametrize("name", ["mini_f32", "full_structure_f16"])
def test_the_tokenizers_numbers(name):
    numbers = load_file(GOLDEN / "llamagen_vq" / name / "io.safetensors")
    weights = read_checkpoint(GOLDEN / "llamagen_vq" / name / "vq_ds16_tiny.pt")
    model = build_tokenizer({key: value.float() for key, value in weights.items()}, 8, name)
    tokenizer = JanusTokenizer(model.eval().requires_grad_(False))
    features = tokenizer.features(numbers["image"])
    torch.testing.assert_close(features.permute(0, 3, 1, 2), numbers["pre_quant"], rtol=0, atol=5e-5)
    assert torch.equal(nearest_tokens(features, tokenizer.codebook).flatten(1), numbers["ids"])
    for tokens, expected in (("ids", "decoded"), ("random_ids", "decoded_random")):
        found = tokenizer.decode(numbers[tokens].view(2, 8, 8))
        torch.testing.assert_close(found, numbers[expected].clamp(-1, 1), rtol=0, atol=5e-5)


# --- captions -----------------------------------------------------------------------------------------------------


@golden
def test_captions_are_cleaned_as_in_training():
    for case in json.loads((GOLDEN / "llamagen_t2i" / "caption_cleaning.json").read_text()):
        assert clean_caption(case["input"]) == case["output"]


def assert_first_logits(vlm, prompts, tokens, scale, expected):
    """The first 8 logits along given tokens, in one pass of the conditional (scale 1) or the unconditional rows."""
    condition, text_mask = vlm.condition(prompts, guided=True)
    rows = slice(0, len(prompts)) if scale == 1 else slice(len(prompts), None)
    embeddings = vlm.gpt.tok_embeddings(tokens.flatten(1)[:, :7])
    sequence = torch.cat([condition[rows], embeddings], dim=1)
    with torch.no_grad():
        logits = vlm.gpt(sequence, attention_mask(text_mask[rows], sequence.shape[1]))[:, -8:]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@golden
def test_the_text_path_and_its_greedy_sequences(converted):
    numbers = load_file(GOLDEN / "llamagen_t2i" / "text_pipeline.safetensors")
    prompts = json.loads((GOLDEN / "llamagen_t2i" / "text_pipeline.json").read_text())["prompts"]
    vlm = load_vlm(converted / "t2i")
    embeddings, mask = vlm.captions(prompts)
    torch.testing.assert_close(embeddings, numbers["c_indices"], rtol=0, atol=5e-5)
    assert torch.equal(mask, numbers["c_emb_masks"])
    logits = []
    drawn = vlm.sample(prompts, seeds=[0, 1, 2], sampling=GREEDY["t2i"], on_logits=logits.append)
    assert torch.equal(drawn.tokens.flatten(1), numbers["greedy_ids"])
    torch.testing.assert_close(torch.stack(logits[:8], dim=1), numbers["first8_guided_logits"], rtol=0, atol=1e-3)
    for scale, expected in ((1.0, "first8_cond_logits"), (0.0, "first8_uncond_logits")):
        assert_first_logits(vlm, prompts, drawn.tokens, scale, numbers[expected])
    alone = vlm.sample(prompts[1:2], seeds=[5], sampling=GREEDY["t2i"])
    assert torch.equal(alone.tokens[0], drawn.tokens[1])


class GivenCaptions(torch.nn.Module):
    """In the caption encoder's place: the golden conditions."""

    def __init__(self, embeddings, mask):
        super().__init__()
        self.embeddings, self.mask = embeddings, mask

    def forward(self, prompts):
        rows = [int(prompt) for prompt in prompts]
        return self.embeddings[rows], self.mask[rows]


@golden
def test_captions_go_to_the_left_as_in_the_official_script():
    numbers = load_file(GOLDEN / "llamagen_t2i" / "io.safetensors")
    embeddings, mask = left_padded(numbers["t5_embeddings"], numbers["t5_attention_mask"])
    torch.testing.assert_close(embeddings, numbers["c_indices"], rtol=0, atol=1e-6)
    assert torch.equal(mask, numbers["c_emb_masks"].to(mask))


@golden
@pytest.mark.parametrize(("scale", "expected"), [(7.5, "greedy_ids"), (1.0, "nocfg_greedy_ids")])
def test_greedy_sequences_of_captions(scale, expected, converted):
    numbers = load_file(GOLDEN / "llamagen_t2i" / "io.safetensors")
    vlm = load_vlm(converted / "t2i")
    vlm.captions = GivenCaptions(numbers["c_indices"], numbers["c_emb_masks"])
    logits = []
    sampling = SamplingConfig(guidance_scale=scale, temperature=0)
    drawn = vlm.sample(["0", "1"], seeds=[0, 1], sampling=sampling, on_logits=logits.append)
    assert torch.equal(drawn.tokens.flatten(1), numbers[expected])
    if expected == "greedy_ids":
        first = torch.stack(logits[:4], dim=1)
        torch.testing.assert_close(first, numbers["greedy_guided_logits_first4"], rtol=0, atol=1e-3)
        picture = vlm.tokenizer.decode(drawn.tokens)
        torch.testing.assert_close(picture, numbers["greedy_image"].clamp(-1, 1), rtol=0, atol=5e-5)


def test_padding_goes_to_the_left_and_is_zero():
    embeddings = torch.arange(1.0, 9.0).view(2, 4, 1)
    found, mask = left_padded(embeddings, torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]))
    assert found[..., 0].tolist() == [[0, 0, 1, 2], [5, 6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


# --- sampling -----------------------------------------------------------------------------------------------------


@golden
@pytest.mark.parametrize(
    ("scale", "guidance_steps", "expected"),
    [(4.0, None, "greedy_ids"), (1.0, None, "nocfg_greedy_ids"), (4.0, 21, "interval20_greedy_ids")],
)
def test_greedy_sequences_of_classes(scale, guidance_steps, expected, converted):
    numbers = load_file(GOLDEN / "llamagen_c2i" / "io.safetensors")
    vlm = load_vlm(converted / "c2i")
    vlm.guidance_steps = guidance_steps
    prompts = [str(label) for label in numbers["labels"].tolist()]
    drawn = vlm.sample(prompts, seeds=[0, 1, 2], sampling=SamplingConfig(guidance_scale=scale, temperature=0))
    assert torch.equal(drawn.tokens.flatten(1), numbers[expected])
    if expected == "greedy_ids":
        picture = vlm.tokenizer.decode(drawn.tokens[:1])
        torch.testing.assert_close(picture, numbers["greedy_image0"].clamp(-1, 1), rtol=0, atol=5e-5)


@golden
def test_it_is_what_the_contract_asks_for_with_the_authors_defaults(converted):
    for kind, expected in (
        ("t2i", SamplingConfig(guidance_scale=7.5, temperature=1.0, top_k=1000)),
        ("c2i", SamplingConfig(guidance_scale=4.0, temperature=1.0, top_k=2000)),
    ):
        vlm = load_vlm(converted / kind)
        assert isinstance(vlm, ImageTokenModel)
        assert vlm.defaults == expected
        assert vlm.tokenizer.grid == (8, 8)
        assert vlm.tokenizer.image_size == (128, 128)


# --- refusals -----------------------------------------------------------------------------------------------------


@golden
@pytest.mark.parametrize("prompt", ["a dog", "10", "-1", "1.5"])
def test_a_prompt_that_is_no_class_is_refused(prompt, converted):
    with pytest.raises(SoftDecodeError, match="from 0 to 9"):
        load_vlm(converted / "c2i").sample([prompt], seeds=[0])


@golden
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": None}, "say how many heads"),
        ({"image_size": 100}, "multiple of 16"),
        ({"captions": "somewhere"}, "draws classes; give no caption encoder"),
        ({"gpt": VQ}, "no LlamaGen transformer"),
        ({"vq": GOLDEN / "llamagen_c2i" / "c2i_tiny.pt"}, "no VQ-16 tokenizer"),
        ({"vq": GOLDEN / "llamagen_vq" / "full_structure_f16" / "vq_ds16_tiny.pt"}, "1024 image tokens"),
        ({"gpt": GOLDEN / "llamagen_c2i" / "c2i_tiny_train_style_f16.pt"}, "pickled Python objects"),
    ],
)
def test_files_that_do_not_fit_are_refused_and_nothing_is_written(changes, message, tmp_path):
    given = {"gpt": GOLDEN / "llamagen_c2i" / "c2i_tiny.pt", "vq": VQ, "image_size": 128, "heads": 4, **changes}
    with pytest.raises(SoftDecodeError, match=message):
        convert_llamagen(given.pop("gpt"), given.pop("vq"), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_caption_model_needs_its_encoder():
    config = GptConfig(dim=16, layers=1, heads=1, ffn_dim=16, codes=8, grid=2, condition_tokens=3, caption_dim=4)
    with pytest.raises(SoftDecodeError, match="needs a caption encoder"):
        LlamaGenModel(LlamaGenGpt(config), None)
