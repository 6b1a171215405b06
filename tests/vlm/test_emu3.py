"""Emu3 against transformers' own classes, at a tiny size."""

import json

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.vlm.base import SamplingConfig, nearest_tokens
from softdecode.vlm.emu3 import DEFAULTS, LINE_END, NEGATIVE_PROMPT, PROMPT_SUFFIX, Emu3Model
from softdecode.vlm.registry import load_vlm

CODES = 40
SIZE = (6, 10)  # 3 rows of 5 tokens


@pytest.fixture(scope="module")
def vlm(tiny_emu3):
    model, tokenizer = tiny_emu3
    return Emu3Model(model, tokenizer, image_size=SIZE)


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_tokens_are_those_of_the_librarys_encoder(vlm, images):
    sizes = torch.tensor([SIZE] * 3)
    expected = torch.stack(vlm.model.model.vqmodel.encode(images, sizes).image_tokens)
    found = nearest_tokens(vlm.tokenizer.features(images), vlm.tokenizer.codebook)
    assert torch.equal(found, expected)
    assert len(found.unique()) > 3


def test_pictures_are_those_of_the_librarys_decoder(vlm):
    tokens = torch.arange(30).view(2, 3, 5) % CODES
    expected = vlm.model.model.vqmodel.decode(tokens).clamp(-1, 1)
    assert torch.equal(vlm.tokenizer.decode(tokens), expected)
    codes = 2 * vlm.tokenizer.codebook[tokens]
    torch.testing.assert_close(vlm.tokenizer.decode_codes(codes), expected, rtol=0, atol=1e-4)


def sequence(vlm, text, tokens):
    """All ids of a drawn picture, as transformers lays them out: rows of visual tokens, each with its line end."""
    ids = vlm.model.vocabulary_mapping.convert_img2bpe(tokens).flatten().tolist()
    return [*vlm.prompt_ids(text), *ids]


def test_logits_are_those_of_one_parallel_pass(vlm):
    """Guided logits at every position of two prompts of different lengths, against the library without any cache."""
    prompts, scale = ["a red apple", "dog"], 2.5
    seen = []
    sampling = SamplingConfig(guidance_scale=scale)
    found = vlm.sample(prompts, seeds=[1, 2], sampling=sampling, on_logits=lambda logits: seen.append(logits.clone()))
    seen = torch.stack(seen, dim=1)
    visual = torch.tensor([vlm.model.vocabulary_mapping.img2bpe[code] for code in range(CODES)])
    for place, prompt in enumerate(prompts):
        rows = []
        for text in (prompt + PROMPT_SUFFIX, NEGATIVE_PROMPT):
            ids = torch.tensor([sequence(vlm, text, found.tokens[place])])
            logits = vlm.model(input_ids=ids).logits[0][:, visual]
            start = len(vlm.prompt_ids(text)) - 1
            rows.append(torch.stack([logits[start + row * 6 + column] for row in range(3) for column in range(5)]))
        expected = rows[1] + scale * (rows[0] - rows[1])
        torch.testing.assert_close(seen[place], expected, rtol=0, atol=2e-4)


def test_a_greedy_picture_is_that_of_the_librarys_generate(vlm):
    """With its own guidance, and the constraint to visual tokens and line ends."""
    prompt = "a red apple"
    ids = torch.tensor([vlm.prompt_ids(prompt + PROMPT_SUFFIX)])
    visual = sorted(vlm.model.vocabulary_mapping.bpe2img)
    end = vlm.text_tokenizer.convert_tokens_to_ids(LINE_END)

    def allowed(_batch, so_far):
        return [end] if (len(so_far) - ids.shape[1]) % 6 == 5 else visual

    generated = vlm.model.generate(
        ids,
        max_new_tokens=18,
        do_sample=False,
        guidance_scale=3.0,
        negative_prompt_ids=torch.tensor([vlm.prompt_ids(NEGATIVE_PROMPT)]),
        prefix_allowed_tokens_fn=allowed,
        eos_token_id=None,
        attention_mask=torch.ones_like(ids),
    )
    expected = vlm.model.vocabulary_mapping.convert_bpe2img(generated[:, ids.shape[1] :].view(1, 3, 6))
    found = vlm.sample([prompt], seeds=[0], sampling=SamplingConfig(guidance_scale=3.0, temperature=0.0))
    assert torch.equal(found.tokens, expected)


def test_prompts_hold_the_size_and_the_authors_words(vlm):
    ids = vlm.prompt_ids("dog")
    assert vlm.text_tokenizer.decode(ids).replace(" ", "") == "<|bos|>dog<|imagestart|>3*5<|imagetoken|>"
    assert vlm.defaults == DEFAULTS == SamplingConfig(guidance_scale=3.0, temperature=1.0, top_k=2048)
    with pytest.raises(SoftDecodeError, match="control tokens"):
        vlm.sample(["a <|image end|> dog"], seeds=[0])


def test_it_loads_from_a_folder(vlm, images, tmp_path):
    vlm.model.save_pretrained(tmp_path)
    vlm.text_tokenizer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"image_area": 64}))
    loaded = load_vlm(tmp_path)
    assert isinstance(loaded, Emu3Model)
    assert loaded.tokenizer.image_size == (8, 8)
    assert torch.equal(loaded.model.lm_head.weight, vlm.model.lm_head.weight)
    assert loaded.prompt_ids("dog") != vlm.prompt_ids("dog"), "another grid"
    assert loaded.sample(["dog"], seeds=[1]).tokens.shape == (1, 4, 4)


def test_what_does_not_fit_is_refused(vlm, images):
    with pytest.raises(SoftDecodeError, match="multiples of 2"):
        Emu3Model(vlm.model, vlm.text_tokenizer, image_size=(6, 7))
    with pytest.raises(SoftDecodeError, match=r"\[B, 3, 6, 10\]"):
        vlm.tokenizer.features(images[..., :8])
