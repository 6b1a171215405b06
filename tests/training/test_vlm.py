"""Training of the VLM: its text tokenizer, its loss against one computed by hand, and what a batch holds."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from softdecode.data.emoji import Emoji
from softdecode.errors import SoftDecodeError
from softdecode.seeds import generator_for
from softdecode.training.config import LoopConfig
from softdecode.training.loop import train
from softdecode.training.tokenizer import TokenizerConfig, build_tokenizer
from softdecode.training.vlm import (
    SPECIAL_TOKENS,
    VlmConfig,
    VlmTask,
    build_vlm,
    teacher_forced_logits,
    train_text_tokenizer,
)
from softdecode.vlm.base import SamplingConfig

CAPTIONS = ["noto red apple", "twemoji a blue fish in the sea", "fluent dog", "noto ñandú"]
KEYWORDS = ("fruit", "healthy", "round", "sweet", "tree")
EMOJI = tuple(
    Emoji(
        style=caption.split()[0],
        code=str(place),
        label=caption.split(" ", 1)[1],
        keywords=words,
        family="",
        split="train",
    )
    for place, (caption, words) in enumerate(zip(CAPTIONS, (KEYWORDS, KEYWORDS[:2], (), KEYWORDS), strict=True))
)
CODES, GRID = 16, 4


def make_task(**changes):
    config = VlmConfig(hidden_size=32, intermediate_size=48, layers=2, heads=2, vocabulary=300, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer(
            TokenizerConfig(codes=CODES, code_dim=4, base_channels=32, channel_multiplier=(1, 1)), 2 * GRID, 32
        )
        vlm = build_vlm(config, tokenizer, train_text_tokenizer(CAPTIONS, 300))
    tokens = torch.randint(0, CODES, (len(EMOJI), GRID * GRID), generator=torch.Generator().manual_seed(1))
    return VlmTask(vlm, tokens, EMOJI, config)


@pytest.fixture
def task():
    return make_task(unconditional=0.0, keyword_captions=0.0)


def make_batch(task, indices=(0, 1, 2, 3), seed=0):
    generators = [generator_for(seed, place) for place in range(len(indices))]
    return task.batch(torch.tensor(indices), generators)


def captions_of(task, batch):
    """The prompts of a batch's rows, without padding and special tokens."""
    text = task.vlm.text_tokenizer
    rows = [ids[mask.bool()] for ids, mask in zip(batch["ids"], batch["mask"], strict=True)]
    return [text.decode(row[1:-1]).removeprefix("<|User|>: ").removesuffix("\n\n<|Assistant|>:") for row in rows]


# --- the text tokenizer -------------------------------------------------------------------------------------------


def test_the_text_tokenizer_gives_back_any_text():
    text = train_text_tokenizer(CAPTIONS, 300)
    for prompt in (*CAPTIONS, "words it never saw", "日本 🍎", "two  spaces"):
        assert text.decode(text.encode(prompt)) == prompt
    assert len(text) == 300


def test_special_tokens_are_single_ids_and_none_is_added():
    text = train_text_tokenizer(CAPTIONS, 300)
    for name in SPECIAL_TOKENS:
        assert len(text.encode(name)) == 1
    assert text.bos_token_id not in text.encode("noto red apple")
    assert len({text.bos_token_id, text.pad_token_id, text.eos_token_id}) == 3


def test_the_text_tokenizer_depends_on_its_captions_alone():
    first, second = (train_text_tokenizer(CAPTIONS, 300) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    merged = len(train_text_tokenizer(CAPTIONS, 320).encode("noto red apple"))
    assert merged <= len(first.encode("noto red apple"))


# --- the model ----------------------------------------------------------------------------------------------------


def test_the_vlm_has_the_tokenizers_weights(task):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = TokenizerConfig(codes=CODES, code_dim=4, base_channels=32, channel_multiplier=(1, 1))
        expected = build_tokenizer(config, 2 * GRID, 32).state_dict()
    found = task.vlm.model.model.vqmodel.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert task.vlm.tokenizer.grid == (GRID, GRID)
    assert task.vlm.model.config.tie_word_embeddings is False


def test_only_what_draws_is_trained_and_all_of_it(task, gradients):
    found = gradients(task, make_batch(task), None)
    prefix = "vlm.model.model."
    parts = {name.removeprefix(prefix).split(".")[0] for name in found}
    assert parts == {"language_model", "generation_embeddings", "generation_aligner", "generation_head"}
    assert all(gradient.norm() > 0 for gradient in found.values())
    assert not task.vlm.model.lm_head.weight.requires_grad


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_the_true_tokens(task):
    batch = make_batch(task)
    with torch.no_grad():
        found = task(batch, 0)
    # One row at a time, without padding, through the library's own modules, and the logarithms by hand.
    janus = task.vlm.model.model
    losses, right = [], []
    for caption, tokens in zip(CAPTIONS, batch["tokens"], strict=True):
        ids = torch.tensor([task.vlm.prompt_ids(caption)])
        with torch.no_grad():
            text = janus.language_model.get_input_embeddings()(ids)
            image = janus.generation_aligner(janus.generation_embeddings(tokens[None]))
            hidden = janus.language_model(inputs_embeds=torch.cat([text, image], dim=1)).last_hidden_state[0]
            logits = janus.generation_head(hidden).double().numpy()
        # Token k is predicted at the place before it: the first one at begin-of-image.
        for place, token in enumerate(tokens.tolist()):
            row = logits[ids.shape[1] - 1 + place]
            losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[token])
            right.append(row.argmax() == token)
    assert found["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["accuracy"].item() == pytest.approx(np.mean(right))


@torch.no_grad()
def test_a_token_is_predicted_from_those_before_it_alone(task):
    batch = make_batch(task, (0, 1))
    before = teacher_forced_logits(task.vlm, batch["ids"], batch["mask"], batch["tokens"])
    assert before.shape == (2, GRID * GRID, CODES)
    changed = batch["tokens"].clone()
    changed[:, 5] = (changed[:, 5] + 1) % CODES
    after = teacher_forced_logits(task.vlm, batch["ids"], batch["mask"], changed)
    torch.testing.assert_close(after[:, :6], before[:, :6], rtol=0, atol=1e-6)
    assert ((after[:, 6:] - before[:, 6:]).abs().amax((0, 2)) > 1e-6).all()


@torch.no_grad()
def test_padding_changes_nothing(task):
    together = make_batch(task, (2, 1))
    alone = make_batch(task, (2,))
    assert together["ids"].shape[1] > alone["ids"].shape[1]
    found = teacher_forced_logits(task.vlm, together["ids"], together["mask"], together["tokens"])[0]
    expected = teacher_forced_logits(task.vlm, alone["ids"], alone["mask"], alone["tokens"])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_bf16_gradients_agree_with_float32(task, gradients, assert_gradients_agree):
    batch = make_batch(task)
    assert_gradients_agree(gradients(task, batch, torch.bfloat16), gradients(task, batch, None))


def test_it_learns_its_pictures_by_heart(task, tmp_path):
    config = LoopConfig(steps=150, batch_size=4, learning_rate=1e-2, warmup_steps=5, precision="fp32", ema_decay=0.5)
    train(task, config, tmp_path, job={})
    with torch.no_grad():
        assert task(make_batch(task), 0)["accuracy"] > 0.9
    # And by then it draws them: prompts, positions and cache are the same in drawing as in training.
    drawn = task.vlm.sample(CAPTIONS, seeds=[0] * 4, sampling=SamplingConfig(guidance_scale=1.0, temperature=0.0))
    assert (drawn.tokens.flatten(1) == task.tokens).float().mean() > 0.9


# --- batches ------------------------------------------------------------------------------------------------------


def test_a_row_is_a_prompt_and_its_tokens(task):
    batch = make_batch(task, (3, 0, 3))
    assert captions_of(task, batch) == [CAPTIONS[3], CAPTIONS[0], CAPTIONS[3]]
    assert torch.equal(batch["tokens"], task.tokens[[3, 0, 3]])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_unconditional_rows(share):
    task = make_task(unconditional=share, keyword_captions=0.0)
    batch = make_batch(task, [0] * 400)
    conditional = torch.tensor(task.vlm.prompt_ids(CAPTIONS[0]))
    unconditional = torch.tensor(task.vlm.unconditional_ids(conditional.tolist()))
    is_conditional = (batch["ids"] == conditional).all(1)
    assert torch.equal(~is_conditional, (batch["ids"] == unconditional).all(1))
    # Four standard deviations of 400 draws at 0.3 are 0.09.
    assert (~is_conditional).float().mean().item() == pytest.approx(share, abs=0.09 if 0 < share < 1 else 0)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_share_of_captions_with_keywords(share):
    task = make_task(unconditional=0.0, keyword_captions=share)
    found = captions_of(task, make_batch(task, [0] * 400))
    with_keywords = [caption for caption in found if caption != CAPTIONS[0]]
    # Four standard deviations of 400 draws at 0.4 are 0.098.
    assert len(with_keywords) / 400 == pytest.approx(share, abs=0.098 if 0 < share < 1 else 0)
    added = [caption.split(", ")[1:] for caption in with_keywords]
    assert all(caption.split(", ")[0] == CAPTIONS[0] for caption in with_keywords)
    assert all(len(set(words)) == len(words) and set(words) <= set(KEYWORDS) for words in added)
    if share:
        assert {len(words) for words in added} == {1, 2, 3}
        assert set(Counter(word for words in added for word in words)) == set(KEYWORDS)


def test_an_emoji_without_keywords_keeps_its_caption():
    task = make_task(unconditional=0.0, keyword_captions=1.0)
    assert set(captions_of(task, make_batch(task, [2] * 20))) == {CAPTIONS[2]}


def test_the_generator_decides_a_batch():
    task = make_task(unconditional=0.5, keyword_captions=0.5)
    first, same, other = (make_batch(task, [0, 1, 3] * 5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first["ids"], same["ids"])
    assert first["ids"].shape != other["ids"].shape or not torch.equal(first["ids"], other["ids"])


# --- what an epoch holds ------------------------------------------------------------------------------------------


def test_an_epoch_shows_small_families_more_often():
    task = make_task(unconditional=0.0, keyword_captions=0.0, rare_repeats=3, rare_family=1)
    families = ("people", "people", "apple", "people")
    emoji = [replace(record, family=family) for record, family in zip(EMOJI, families, strict=True)]
    repeated = VlmTask(task.vlm, task.tokens, emoji, task.config)
    assert repeated.samples == 6
    whole = make_batch(repeated, range(6))
    shown = [next(place for place in range(4) if torch.equal(row, task.tokens[place])) for row in whole["tokens"]]
    assert Counter(shown) == {0: 1, 1: 1, 2: 3, 3: 1}
    captions = captions_of(repeated, whole)
    assert captions == [CAPTIONS[place] for place in shown], "caption and tokens are of the same picture"


@pytest.mark.parametrize("wrong", [{"rare_repeats": 0}, {"unconditional": 1.5}, {"keyword_captions": -0.1}])
def test_shares_and_repeats_out_of_range_are_refused(wrong):
    with pytest.raises(SoftDecodeError, match=next(iter(wrong))):
        VlmConfig(**wrong)
