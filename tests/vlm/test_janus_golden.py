"""Janus in its authors' layout against the numbers of their own code, where those files are at hand."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from softdecode.errors import SoftDecodeError
from softdecode.training.vlm import teacher_forced_logits
from softdecode.vlm.base import SamplingConfig, nearest_tokens
from softdecode.vlm.janus import FIRST_PROMPT_TEMPLATE, JanusModel
from softdecode.vlm.janus_official import converted
from softdecode.vlm.registry import load_vlm

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "janus"

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden Janus checkpoint, which is not here")


@pytest.fixture(scope="module")
def vlm():
    found = load_vlm(GOLDEN / "repo")
    assert isinstance(found, JanusModel)
    return found


@pytest.fixture(scope="module")
def numbers():
    return load_file(GOLDEN / "io.safetensors")


@pytest.fixture(scope="module")
def meta():
    return json.loads((GOLDEN / "meta.json").read_text())


def assert_near(found, expected, tolerance):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_the_tokenizers_features_and_tokens(vlm, numbers):
    features = vlm.tokenizer.features(numbers["image"])
    assert_near(features.permute(0, 3, 1, 2), numbers["pre_quant"], 5e-5)
    tokens = nearest_tokens(features, vlm.tokenizer.codebook)
    assert torch.equal(tokens.flatten(1), numbers["ids"])


def test_decoding_tokens_and_their_code_vectors(vlm, numbers):
    expected = numbers["decoded"].clamp(-1, 1)
    tokens = numbers["ids"].view(2, 8, 8)
    assert_near(vlm.tokenizer.decode(tokens), expected, 5e-5)
    assert_near(vlm.tokenizer.decode_codes(vlm.tokenizer.codebook[tokens]), expected, 5e-5)


@pytest.mark.parametrize(("template", "places"), [(None, (0, 1)), (FIRST_PROMPT_TEMPLATE, (2, 3))])
def test_prompt_ids(template, places, vlm, meta):
    if template is not None:
        vlm = JanusModel(vlm.model, vlm.text_tokenizer, prompt_template=template)
    for place in places:
        assert vlm.prompt_ids(meta["prompts"][place]["content"]) == meta["prompts"][place]["input_ids"]


def test_forced_logits(vlm, numbers):
    """One parallel pass over the official prefill rows, cond and uncond in turn, and the forced tokens."""
    ids = numbers["prefill_tokens"]
    tokens = numbers["forced_ids"].repeat_interleave(2, 0)
    with torch.no_grad():
        logits = teacher_forced_logits(vlm, ids, torch.ones_like(ids), tokens)
    conditional, unconditional = logits[::2], logits[1::2]
    assert_near(conditional, numbers["forced_cond_logits"], 2e-4)
    assert_near(unconditional, numbers["forced_uncond_logits"], 2e-4)
    assert_near(unconditional + 5 * (conditional - unconditional), numbers["forced_guided_logits"], 1e-3)


def test_greedy_sequences_are_equal_alone_and_in_a_batch(vlm, numbers, meta):
    prompts = [meta["prompts"][place]["content"] for place in (0, 1)]
    greedy = SamplingConfig(guidance_scale=5.0, temperature=0.0)
    together = vlm.sample(prompts, seeds=[0, 1], sampling=greedy).tokens.flatten(1)
    for place, prompt in enumerate(prompts):
        expected = numbers[f"greedy{place}_ids"][0]
        assert torch.equal(together[place], expected)
        assert torch.equal(vlm.sample([prompt], seeds=[7], sampling=greedy).tokens.flatten(), expected)


def test_greedy_pictures(vlm, numbers):
    for place in (0, 1):
        picture = vlm.tokenizer.decode(numbers[f"greedy{place}_ids"].view(1, 8, 8))[0]
        assert_same_pixels(picture, numbers[f"greedy{place}_uint8"])


def test_forced_pictures(vlm, numbers):
    pictures = vlm.tokenizer.decode(numbers["forced_ids"].view(2, 8, 8))
    assert_near(pictures, numbers["forced_decoded"].clamp(-1, 1), 5e-5)
    for picture, expected in zip(pictures, numbers["forced_uint8"], strict=True):
        assert_same_pixels(picture, expected)


def assert_same_pixels(picture, expected):
    """As the official code rounds, towards zero, up to 1."""
    found = ((picture + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_image_tokens_as_the_language_models_input(vlm, numbers):
    assert_near(vlm.embed_tokens(torch.arange(8)), numbers["gen_img_embeds_first8"], 5e-5)


def test_the_understanding_halfs_text_logits(vlm, numbers):
    """The language model's own head is untied and loaded, too."""
    with torch.no_grad():
        hidden = vlm.model.model.language_model(numbers["text_input_ids"]).last_hidden_state
        found = vlm.model.lm_head(hidden)
    assert_near(found, numbers["text_logits"], 2e-4)


def test_the_authors_sampling_is_the_default(vlm):
    assert vlm.defaults == SamplingConfig(guidance_scale=5.0, temperature=1.0, top_k=0)


def test_vision_features(vlm, numbers):
    with torch.no_grad():
        vision = vlm.model.model.vision_model(numbers["image"]).last_hidden_state
        aligned = vlm.model.model.aligner(vision)
    assert_near(vision, numbers["vision_features"], 2e-4)
    assert_near(aligned, numbers["aligned_features"], 2e-4)


# --- damaged folders ----------------------------------------------------------------------------------------------


@pytest.fixture
def repo(tmp_path):
    return shutil.copytree(GOLDEN / "repo", tmp_path / "repo")


def test_weights_that_do_not_fit_are_all_listed(repo):
    path = repo / "pytorch_model-00002-of-00002.bin"
    weights = torch.load(path, weights_only=True)
    # Two that no size is read off; another name each in transformers.
    absent, narrow = [name for name in weights if name.startswith(("language_model.model.layers", "gen_embed"))][:2]
    (ours_absent, _), (ours_narrow, _) = (next(converted(name, weights[name])) for name in (absent, narrow))
    del weights[absent]
    weights[narrow] = weights[narrow][..., :-1].clone()
    torch.save({**weights, "surplus.weight": torch.ones(2)}, path)
    with pytest.raises(SoftDecodeError) as caught:
        load_vlm(repo)
    message = str(caught.value)
    assert f"1 missing: {ours_absent};" in message
    assert "1 unexpected: surplus.weight;" in message
    assert f"1 misshaped: {ours_narrow} is" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model-00002-of-00002.bin", "lacks weight files that its index names"),
        ("pytorch_model.bin.index.json", "holds no weights: looked for"),
        ("tokenizer.json", "cannot load the text tokenizer"),
    ],
)
def test_a_missing_file_is_named(name, message, repo):
    (repo / name).unlink()
    with pytest.raises(SoftDecodeError, match=message):
        load_vlm(repo)


def test_a_config_without_its_parts_is_refused(repo):
    (repo / "config.json").write_text(json.dumps({"model_type": "multi_modality"}))
    with pytest.raises(SoftDecodeError, match=r"not a whole Janus checkpoint .*language_config"):
        load_vlm(repo)
