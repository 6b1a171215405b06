"""Chameleon against transformers' own class, and its VQ tokenizer against diffusers' converter, at a tiny size."""

import argparse

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from softdecode.errors import SoftDecodeError
from softdecode.vlm.base import SamplingConfig, nearest_tokens
from softdecode.vlm.chameleon import DEFAULTS, VQ_FILE, ChameleonModel, ChameleonTokenizer, load_vqgan
from softdecode.vlm.registry import load_vlm

CODES = 40


@pytest.fixture(scope="module")
def vlm(tiny_chameleon):
    model, vq, _, tokenizer = tiny_chameleon
    return ChameleonModel(model, ChameleonTokenizer(vq, (8, 8)), tokenizer)


@pytest.fixture
def folder(tiny_chameleon, tmp_path):
    model, _, weights, tokenizer = tiny_chameleon
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save({"state_dict": {**weights, "loss.logvar": torch.zeros(1)}}, tmp_path / VQ_FILE)
    return tmp_path


def test_tokens_are_those_of_the_librarys_encoder(vlm):
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = vlm.model.model.vqmodel.encode(images).image_tokens.view(6, 4, 4)
    found = nearest_tokens(vlm.tokenizer.features(images), vlm.tokenizer.codebook)
    assert torch.equal(found, expected)
    assert len(found.unique()) > 3


def test_the_original_file_becomes_diffusers_model(tiny_chameleon, folder):
    _, vq, weights, _ = tiny_chameleon
    loaded = load_vqgan(folder / VQ_FILE, torch.float32)
    expected = vq.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    own = ("quantize.", "quant_conv.", "post_quant_conv.")
    converted = convert_ldm_vae_checkpoint(
        {name: value for name, value in weights.items() if not name.startswith("quantize")}, dict(vq.config)
    )
    for name, value in expected.items():
        if not name.startswith(own):
            assert torch.equal(converted[name], value), name


def test_pictures_are_those_of_the_whole_tokenizer(vlm):
    tokens = torch.arange(32).view(2, 4, 4) % CODES
    quantised = vlm.tokenizer.model.quantize.get_codebook_entry(tokens.flatten(), (2, 4, 4, 6))
    expected = vlm.tokenizer.model.decode(quantised, force_not_quantize=True).sample.clamp(-1, 1)
    torch.testing.assert_close(vlm.tokenizer.decode(tokens), expected, rtol=0, atol=1e-4)
    codes = 3 * vlm.tokenizer.codebook[tokens]
    torch.testing.assert_close(vlm.tokenizer.decode_codes(codes), expected, rtol=0, atol=1e-4)


def test_logits_are_those_of_one_parallel_pass(vlm):
    prompts, scale = ["a red apple", "dog"], 2.5
    seen = []
    sampling = SamplingConfig(guidance_scale=scale)
    found = vlm.sample(prompts, seeds=[1, 2], sampling=sampling, on_logits=lambda logits: seen.append(logits.clone()))
    seen = torch.stack(seen, dim=1)
    mapping = vlm.model.model.vocabulary_mapping
    visual = torch.tensor([mapping.img2bpe[code] for code in range(CODES)])
    for place, prompt in enumerate(prompts):
        drawn = mapping.convert_img2bpe(found.tokens[place].flatten()).tolist()
        rows = []
        for start in (vlm.prompt_ids(prompt), vlm.unconditional_ids()):
            # transformers' own forward rules image tokens out, but its hidden states and head are the same
            hidden = vlm.model.model(input_ids=torch.tensor([[*start, *drawn]])).last_hidden_state[0]
            rows.append(vlm.model.lm_head(hidden)[len(start) - 1 : -1, visual])
        torch.testing.assert_close(seen[place], rows[1] + scale * (rows[0] - rows[1]), rtol=0, atol=2e-4)


def test_prompts_are_laid_out_as_by_the_authors(vlm):
    vocabulary = vlm.text_tokenizer.get_vocab()
    names = ["<s>", "d", "o", "g", "<reserved08706>", "<racm3:break>"]
    assert vlm.prompt_ids("dog") == [vocabulary[name] for name in names]
    assert vlm.unconditional_ids() == [vocabulary["<s>"], vocabulary["<racm3:break>"]]
    assert vlm.defaults == DEFAULTS == SamplingConfig(guidance_scale=3.0, temperature=0.7, top_k=0, top_p=0.9)


def test_it_loads_from_a_folder(vlm, folder):
    loaded = load_vlm(folder)
    assert isinstance(loaded, ChameleonModel)
    assert loaded.tokenizer.image_size == (8, 8)
    for prompt in ("dog", "a red apple"):
        found, expected = (model.sample([prompt], seeds=[3]) for model in (loaded, vlm))
        assert torch.equal(found.tokens, expected.tokens)


def test_a_folder_without_the_vq_decoder_says_where_it_is_from(folder):
    (folder / VQ_FILE).unlink()
    with pytest.raises(SoftDecodeError, match=r"looked for vqgan\.ckpt of the original release, found .*config\.json"):
        load_vlm(folder)


def test_a_bad_vq_file_is_refused(folder, tiny_chameleon):
    weights = dict(tiny_chameleon[2])
    torch.save({**weights, "quantize.embedding.weight": torch.randn(CODES, 6)}, folder / VQ_FILE)
    with pytest.raises(SoftDecodeError, match="another model's"):
        load_vlm(folder)
    torch.save({name: value for name, value in weights.items() if name != "decoder.conv_out.bias"}, folder / VQ_FILE)
    with pytest.raises(SoftDecodeError, match=r"1 missing: decoder\.conv_out\.bias"):
        load_vlm(folder)
    torch.save({"encoder.conv_in.weight": torch.zeros(2)}, folder / VQ_FILE)
    with pytest.raises(SoftDecodeError, match="no VQ tokenizer"):
        load_vlm(folder)
    torch.save({"state_dict": weights, "args": argparse.Namespace(x=1)}, folder / VQ_FILE)
    with pytest.raises(SoftDecodeError, match="pickled Python objects"):
        load_vlm(folder)
