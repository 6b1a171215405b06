"""Janus behind our own autoregressive loop: tiny models of random weights."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.training.tokenizer import TokenizerConfig, build_tokenizer
from softdecode.training.vlm import VlmConfig, build_vlm, teacher_forced_logits, train_text_tokenizer
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel, SamplingConfig, nearest_tokens
from softdecode.vlm.janus import BEGIN_OF_IMAGE, SAMPLING_FILE, JanusModel
from softdecode.vlm.registry import load_vlm

# Of different lengths in text tokens, so that batches are padded.
PROMPTS = ["red apple", "noto a very long caption about two dogs and a cat", "x", "twemoji blue fish"]
CODES, CODE_DIM, HIDDEN = 64, 4, 32


def build(seed=0):
    """A Janus of 16×16 pixels and 4×4 tokens, with weights large enough that its logits are far from uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(
            TokenizerConfig(codes=CODES, code_dim=CODE_DIM, base_channels=32, channel_multiplier=(1, 1, 1)), 16, HIDDEN
        )
        # A codebook whose rows are not of length 1, as Janus-Pro's are not.
        tokenizer.quantize.embedding.weight.mul_(torch.rand(CODES, 1) * 3 + 0.2)
        text = train_text_tokenizer(PROMPTS, 300)
        config = VlmConfig(hidden_size=HIDDEN, intermediate_size=64, layers=2, heads=2, vocabulary=300)
        vlm = build_vlm(config, tokenizer, text).eval().requires_grad_(False)
        janus = vlm.model.model
        for part in (janus.language_model, janus.generation_embeddings, janus.generation_aligner):
            for parameter in part.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=0.25)
        for parameter in janus.generation_head.parameters():
            parameter.normal_(std=0.4)
    return vlm


@pytest.fixture(scope="module")
def vlm():
    return build()


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.fixture(scope="module")
def folder(vlm, tmp_path_factory):
    path = tmp_path_factory.mktemp("janus") / "model"
    vlm.model.save_pretrained(path)
    vlm.text_tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    """The model's folder, to be damaged."""
    return shutil.copytree(folder, tmp_path / "copied")


def sample(vlm, prompts, seeds, **settings):
    """The distribution, and the logits [B, N, V] that `on_logits` saw."""
    seen = []
    sampling = SamplingConfig(**settings)
    found = vlm.sample(prompts, seeds=seeds, sampling=sampling, on_logits=lambda logits: seen.append(logits.clone()))
    return found, torch.stack(seen, dim=1)


def parallel_logits(vlm, ids, tokens):
    """Logits [N, V] of one image's tokens in one pass, in a batch of its own and without any padding."""
    rows = torch.tensor([ids])
    return teacher_forced_logits(vlm, rows, torch.ones_like(rows), tokens.flatten()[None])[0]


def test_it_is_what_the_contract_asks_for(vlm):
    assert isinstance(vlm, ImageTokenModel)
    assert isinstance(vlm.tokenizer, ImageTokenizer)
    assert vlm.tokenizer.grid == (4, 4)
    assert vlm.tokenizer.image_size == (16, 16)
    assert vlm.tokenizer.codebook.shape == (CODES, CODE_DIM)
    assert vlm.tokenizer.codebook.dtype == torch.float32
    torch.testing.assert_close(vlm.tokenizer.codebook.norm(dim=-1), torch.ones(CODES))
    assert (vlm.device.type, vlm.dtype) == ("cpu", torch.float32)


# --- the autoregressive loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guidance", "temperature"), [(5.0, 1.0), (2.5, 0.7), (0.0, 1.0)])
def test_guided_logits_are_those_of_a_parallel_pass(vlm, guidance, temperature):
    found, logits = sample(vlm, PROMPTS, [3, 1, 4, 1], guidance_scale=guidance, temperature=temperature)
    assert logits.std() > 0.5, "logits that are nearly uniform would compare equal whatever the loop does"
    for image, prompt in enumerate(PROMPTS):
        ids = vlm.prompt_ids(prompt)
        conditional = parallel_logits(vlm, ids, found.tokens[image])
        unconditional = parallel_logits(vlm, vlm.unconditional_ids(ids), found.tokens[image])
        assert (conditional - unconditional).abs().max() > 0.1
        expected = (unconditional + guidance * (conditional - unconditional)) / temperature
        torch.testing.assert_close(logits[image], expected, rtol=0, atol=1e-4 * max(1, guidance) / temperature)


def test_logits_depend_on_the_prompt_and_on_the_tokens_before(vlm):
    _, logits = sample(vlm, ["red apple", "red apple", "blue apple"], [1, 2, 1], guidance_scale=1.0)
    assert torch.allclose(logits[0, 0], logits[1, 0], atol=1e-5)
    assert not torch.allclose(logits[0, 1:], logits[1, 1:], atol=1e-2)
    assert not torch.allclose(logits[0, 0], logits[2, 0], atol=1e-2)


def test_an_image_depends_neither_on_its_batch_nor_on_its_place(vlm):
    seeds = [11, 12, 13, 14]
    together, _ = sample(vlm, PROMPTS, seeds)
    backwards, _ = sample(vlm, PROMPTS[::-1], seeds[::-1])
    for place, (prompt, seed) in enumerate(zip(PROMPTS, seeds, strict=True)):
        alone, _ = sample(vlm, [prompt], [seed])
        for other in (together[[place]], backwards[[len(PROMPTS) - 1 - place]]):
            assert torch.equal(other.tokens, alone.tokens)
            torch.testing.assert_close(other.codes, alone.codes, rtol=0, atol=1e-5)
            torch.testing.assert_close(other.uncertainty, alone.uncertainty, rtol=0, atol=1e-4)


def test_the_seed_decides(vlm):
    same, _ = sample(vlm, ["x"] * 3, [7, 7, 8])
    assert torch.equal(same.tokens[0], same.tokens[1])
    assert not torch.equal(same.tokens[0], same.tokens[2])


def test_without_guidance_there_are_no_unconditional_rows(vlm):
    rows = []
    language = vlm.model.model.language_model
    hook = language.register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    try:
        plain, logits = sample(vlm, PROMPTS, [1, 2, 3, 4], guidance_scale=1.0)
        assert set(rows) == {len(PROMPTS)}
        rows.clear()
        sample(vlm, PROMPTS, [1, 2, 3, 4], guidance_scale=1.5)
        assert set(rows) == {2 * len(PROMPTS)}
    finally:
        hook.remove()
    for image, prompt in enumerate(PROMPTS):
        expected = parallel_logits(vlm, vlm.prompt_ids(prompt), plain.tokens[image])
        torch.testing.assert_close(logits[image], expected, rtol=0, atol=1e-4)


def test_temperature_0_takes_the_most_probable_token_whatever_the_seed(vlm):
    first, logits = sample(vlm, PROMPTS, [1, 2, 3, 4], temperature=0.0)
    second, _ = sample(vlm, PROMPTS, [5, 6, 7, 8], temperature=0.0)
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.tokens.flatten(1), logits.argmax(-1))


def test_the_distribution_is_the_softmax_of_the_logits(vlm):
    found, logits = sample(vlm, PROMPTS[:2], [1, 2], top_k=3)
    probs = logits.double().softmax(-1)
    expected = (probs @ vlm.tokenizer.codebook.double()).view(2, 4, 4, CODE_DIM)
    torch.testing.assert_close(found.codes.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.uncertainty[..., 0].double(), probs.amax(-1).view(2, 4, 4), rtol=0, atol=1e-5)


def test_label_smoothing_reaches_the_belief_and_not_the_draw(vlm):
    plain = vlm.sample(PROMPTS, seeds=[1, 2, 3, 4])
    # kappa is for the encoder's cosines: a VLM's logits must not be sharpened by it.
    smoothed = vlm.sample(PROMPTS, seeds=[1, 2, 3, 4], calibration=Calibration(kappa=30.0, epsilon=0.2))
    assert torch.equal(plain.tokens, smoothed.tokens)
    mean_code = vlm.tokenizer.codebook.mean(0)
    torch.testing.assert_close(smoothed.codes, 0.8 * plain.codes + 0.2 * mean_code, rtol=0, atol=1e-5)


def test_progress_counts_the_tokens(vlm):
    calls = []
    vlm.sample(["x"], seeds=[1], on_token=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 16) for done in range(1, 17)]


def test_its_own_settings_are_used_where_none_are_given(vlm):
    other = JanusModel(vlm.model, vlm.text_tokenizer, defaults=SamplingConfig(guidance_scale=1.0, temperature=0.0))
    expected, _ = sample(vlm, ["x"], [1], guidance_scale=1.0, temperature=0.0)
    assert torch.equal(other.sample(["x"], seeds=[1]).tokens, expected.tokens)
    assert vlm.defaults == SamplingConfig(guidance_scale=5.0, temperature=1.0, top_k=0)


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [
        (["a", ""], [1, 2], "prompt 2 of 2 is empty"),
        ([" \n"], [1], "prompt 1 of 1 is empty"),
        (["a", "b"], [1], "2 prompts need as many seeds"),
        (["a"], [1, 2], "1 prompts need as many seeds"),
        ([], [], "at least one prompt"),
    ],
)
def test_prompts_and_seeds_are_checked_before_any_work(vlm, prompts, seeds, message):
    with pytest.raises(SoftDecodeError, match=message):
        vlm.sample(prompts, seeds=seeds, on_token=lambda done, total: pytest.fail("it drew"))


def test_nan_weights_are_named():
    vlm = build()
    vlm.model.model.generation_head.vision_head.bias[3] = torch.nan
    with pytest.raises(SoftDecodeError, match="the logits hold NaN"):
        vlm.sample(["x"], seeds=[1])


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt_ids_begin_with_bos_and_end_with_begin_of_image(vlm, prompt):
    ids = vlm.prompt_ids(prompt)
    begin_of_image = vlm.text_tokenizer.convert_tokens_to_ids(BEGIN_OF_IMAGE)
    assert ids[0] == vlm.text_tokenizer.bos_token_id
    assert ids.count(vlm.text_tokenizer.bos_token_id) == 1
    assert ids[-1] == begin_of_image
    assert ids.count(begin_of_image) == 1
    assert vlm.text_tokenizer.decode(ids[1:-1]) == f"<|User|>: {prompt}\n\n<|Assistant|>:"


def test_control_tokens_in_a_prompt_are_refused(vlm):
    with pytest.raises(SoftDecodeError, match=f"control tokens of .*{re.escape(BEGIN_OF_IMAGE)}; leave them out"):
        vlm.sample(["a red apple", f"blue {BEGIN_OF_IMAGE} fish"], seeds=[0, 1])


def test_bos_comes_once_where_the_text_tokenizer_adds_it_too(vlm):
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = type(vlm.text_tokenizer.backend_tokenizer).from_str(vlm.text_tokenizer.backend_tokenizer.to_str())
    bos = vlm.text_tokenizer.bos_token
    backend.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, vlm.text_tokenizer.bos_token_id)]
    )
    text = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, pad_token=vlm.text_tokenizer.pad_token)
    assert text.encode("x")[0] == text.bos_token_id, "this one does add it"
    assert JanusModel(vlm.model, text).prompt_ids("x") == vlm.prompt_ids("x")


def test_the_unconditional_row_keeps_only_its_ends(vlm):
    ids = vlm.prompt_ids("noto red apple")
    row = vlm.unconditional_ids(ids)
    assert (row[0], row[-1], len(row)) == (ids[0], ids[-1], len(ids))
    assert set(row[1:-1]) == {vlm.text_tokenizer.pad_token_id}


def test_a_text_tokenizer_without_pad_is_refused(vlm):
    from transformers import PreTrainedTokenizerFast

    text = PreTrainedTokenizerFast(
        tokenizer_object=vlm.text_tokenizer.backend_tokenizer, bos_token=vlm.text_tokenizer.bos_token
    )
    with pytest.raises(SoftDecodeError, match="has no pad_token_id"):
        JanusModel(vlm.model, text, name="mine").sample(["x"], seeds=[1])


# --- the VQ side --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_features_are_after_quant_conv_and_before_quantisation(vlm, images):
    model = vlm.model.model.vqmodel
    expected = model.quant_conv(model.encoder(images)).permute(0, 2, 3, 1)
    found = vlm.tokenizer.features(images)
    assert found.shape == (6, 4, 4, CODE_DIM)
    torch.testing.assert_close(found, expected)
    # The trap: what the library calls the last hidden state has other channels, and is before that convolution.
    assert model.encode(images).last_hidden_state.shape[1] != CODE_DIM


@torch.no_grad()
def test_tokens_are_the_codes_of_greatest_cosine(vlm, images):
    features = vlm.tokenizer.features(images)
    found = nearest_tokens(features, vlm.tokenizer.codebook)
    codes = vlm.model.model.vqmodel.quantize.embedding.weight.double().numpy()
    flat = features.double().reshape(-1, CODE_DIM).numpy()
    brute = [max(range(CODES), key=lambda v: row @ codes[v] / np.linalg.norm(codes[v])) for row in flat]
    assert found.flatten().tolist() == brute
    # The trap: the library takes the nearest code without normalising.
    library = vlm.model.model.vqmodel.encode(images).image_tokens.flatten()
    assert (library != found.flatten()).float().mean() > 0.2


def test_tokens_do_not_depend_on_the_length_of_the_features(vlm, images):
    features = vlm.tokenizer.features(images)
    lengths = torch.rand(*features.shape[:3], 1, generator=torch.Generator().manual_seed(0)) + 0.1
    codebook = vlm.tokenizer.codebook
    assert torch.equal(nearest_tokens(features * lengths, codebook), nearest_tokens(features, codebook))


@torch.no_grad()
def test_decoding_tokens_is_the_librarys(vlm):
    tokens = torch.randint(0, CODES, (3, 4, 4), generator=torch.Generator().manual_seed(1))
    found = vlm.tokenizer.decode(tokens)
    assert found.shape == (3, 3, 16, 16)
    torch.testing.assert_close(found, vlm.model.model.vqmodel.decode(tokens.flatten(1)).clamp(-1, 1))
    assert found.std() > 1e-3


def test_decoding_exact_codes_is_decoding_their_tokens(vlm):
    tokens = torch.randint(0, CODES, (2, 4, 4), generator=torch.Generator().manual_seed(2))
    codes = vlm.tokenizer.codebook[tokens]
    expected = vlm.tokenizer.decode(tokens)
    torch.testing.assert_close(vlm.tokenizer.decode_codes(codes), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(vlm.tokenizer.decode_codes(0.3 * codes), expected, rtol=0, atol=1e-5)


def test_rows_and_columns_are_not_swapped(vlm):
    """The picture of tokens whose rows are alike has rows alike (but for the borders), not columns."""
    tokens = torch.arange(4).expand(4, 4)[None]
    across, down = vlm.tokenizer.decode(tokens), vlm.tokenizer.decode(tokens.transpose(1, 2))
    assert not torch.allclose(across, down, atol=1e-3)
    model = vlm.model.model.vqmodel
    grid = torch.nn.functional.normalize(model.quantize.embedding.weight, dim=-1)[tokens].permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(across, model.decoder(model.post_quant_conv(grid)).clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 16, 24), (1, 3, 32, 32), (1, 1, 16, 16), (3, 16, 16)])
def test_pictures_of_another_size_are_refused(vlm, shape):
    with pytest.raises(SoftDecodeError, match=r"images must be \[B, 3, 16, 16\]"):
        vlm.tokenizer.features(torch.zeros(shape))


# --- files --------------------------------------------------------------------------------------------------------


def test_a_saved_model_gives_the_same_logits(vlm, folder):
    loaded = load_vlm(folder)
    assert isinstance(loaded, JanusModel)
    expected, logits = sample(vlm, PROMPTS, [1, 2, 3, 4])
    found, loaded_logits = sample(loaded, PROMPTS, [1, 2, 3, 4])
    assert torch.equal(loaded_logits, logits)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(loaded.tokenizer.codebook, vlm.tokenizer.codebook)
    assert loaded.name == "model"
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_untied_embeddings_survive_a_round_trip(vlm, folder):
    head, embedding = vlm.model.lm_head.weight, vlm.model.get_input_embeddings().weight
    assert not torch.equal(head, embedding)
    loaded = load_vlm(folder).model
    assert torch.equal(loaded.lm_head.weight, head)
    assert torch.equal(loaded.get_input_embeddings().weight, embedding)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_belief_in_float32(folder, dtype):
    loaded = load_vlm(folder, dtype=dtype)
    assert loaded.dtype == dtype
    assert loaded.tokenizer.codebook.dtype == torch.float32
    found, logits = sample(loaded, ["x"], [1], guidance_scale=2.0)
    assert logits.dtype == found.codes.dtype == found.uncertainty.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert loaded.tokenizer.decode(found.tokens).dtype == torch.float32


def test_stored_sampling_settings_replace_the_authors(copied):
    settings = {"guidance_scale": 3.0, "temperature": 0.7, "top_k": 100}
    (copied / SAMPLING_FILE).write_text(json.dumps(settings))
    assert load_vlm(copied).defaults == SamplingConfig(**settings)


def damage_nothing_left(folder):
    for path in folder.iterdir():
        path.unlink()


def damage_truncate(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def damage_drop_key(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.generation_head.vision_head.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def damage_misshape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.generation_head.vision_head.bias"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def damage_extra_key(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"model.surplus": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})


def damage_model_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


def damage_config(folder):
    (folder / "config.json").write_text("{")


def damage_text_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def damage_text_tokenizer_keys(folder):
    (folder / "tokenizer.json").write_text("{}")


def damage_sampling_name(folder):
    (folder / SAMPLING_FILE).write_text('{"guidance": 3.0}')


def damage_sampling_type(folder):
    (folder / SAMPLING_FILE).write_text('{"temperature": "hot"}')


def unfriendly(damage, error, message):
    """A kind of damage that is not yet turned into one clear line."""
    return pytest.param(damage, message)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nothing_left, "looked for config.json, found nothing"),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "cannot load JanusForConditionalGeneration .*safetensors",
        ),
        (damage_truncate, "cannot load JanusForConditionalGeneration"),
        (damage_drop_key, r"1 missing: model\.generation_head\.vision_head\.bias"),
        pytest.param(
            damage_misshape,
            r"misshaped: .*model\.generation_head\.vision_head\.bias",
        ),
        (damage_extra_key, r"1 unexpected: model\.surplus"),
        (damage_model_type, "is a 'llama' model; softdecode knows .*janus"),
        (damage_config, "is not valid JSON"),
        (damage_text_tokenizer, "cannot load the text tokenizer"),
        unfriendly(damage_text_tokenizer_keys, KeyError, "cannot load the text tokenizer"),
        unfriendly(damage_sampling_name, TypeError, SAMPLING_FILE),
        unfriendly(damage_sampling_type, TypeError, SAMPLING_FILE),
        unfriendly(lambda folder: (folder / "config.json").write_text("[]"), AttributeError, "config.json"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(copied, damage, message):
    damage(copied)
    with pytest.raises(SoftDecodeError, match=message) as caught:
        load_vlm(copied)
    assert "\n" not in str(caught.value)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(SoftDecodeError, match="there is no folder"):
        load_vlm(tmp_path / "nothing" / "here")
