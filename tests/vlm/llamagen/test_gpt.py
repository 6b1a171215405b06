"""LlamaGen's transformer: its numbers against the official code's, its cache against one pass, its masks."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from softdecode.errors import SoftDecodeError
from softdecode.shards import read_checkpoint
from softdecode.vlm.llamagen.gpt import (
    GptConfig,
    KeyValues,
    LlamaGenGpt,
    attention_mask,
    rope_table,
    rotate,
)

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden LlamaGen checkpoints, which are not here")
SIZES = {"dim": 64, "layers": 3, "heads": 4, "ffn_dim": 256, "codes": 1024, "grid": 8}
CONDITIONS = {"t2i": {"condition_tokens": 120, "caption_dim": 64}, "c2i": {"condition_tokens": 1, "classes": 10}}


def build(kind, seed=0, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaGenGpt(GptConfig(**{**SIZES, **CONDITIONS[kind], **changes})).eval().requires_grad_(False)


def official(kind, numbers):
    """The golden model, the embeddings of its conditions (conditional rows first), and their text mask."""
    model = build(kind)
    model.load_state_dict(read_checkpoint(GOLDEN / f"llamagen_{kind}" / f"{kind}_tiny.pt"), strict=True)
    if kind == "c2i":
        classes = torch.cat([numbers["labels"], torch.full((3,), 10)])
        return model, model.cls_embedding(classes), torch.ones(6, 1)
    empty = model.cls_embedding.uncond_embedding[None].expand(2, -1, -1)
    embeddings = model.cls_embedding(torch.cat([numbers["c_indices"], empty]))
    torch.testing.assert_close(embeddings, numbers["cond_embeddings"], rtol=0, atol=1e-5)
    return model, embeddings, torch.cat([numbers["c_emb_masks"]] * 2)


@golden
@pytest.mark.parametrize("kind", CONDITIONS)
def test_forced_logits_are_the_official_codes(kind):
    numbers = load_file(GOLDEN / f"llamagen_{kind}" / "io.safetensors")
    model, condition, text_mask = official(kind, numbers)
    assert torch.equal(model.rope, numbers["rope_table"])
    tokens = torch.cat([numbers["forced_ids"]] * 2)
    sequence = torch.cat([condition, model.tok_embeddings(tokens[:, :-1])], dim=1)
    logits = model(sequence, attention_mask(text_mask, sequence.shape[1]))[:, condition.shape[1] - 1 :]
    conditional, unconditional = logits.chunk(2)
    torch.testing.assert_close(conditional, numbers["forced_cond_logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(unconditional, numbers["forced_uncond_logits"], rtol=0, atol=1e-4)
    scale = {"t2i": 7.5, "c2i": 4.0}[kind]
    guided = unconditional + scale * (conditional - unconditional)
    torch.testing.assert_close(guided, numbers["forced_guided_logits"], rtol=0, atol=1e-3)


@golden
def test_without_a_text_mask_padding_is_looked_at():
    numbers = load_file(GOLDEN / "llamagen_t2i" / "io.safetensors")
    model, condition, text_mask = official("t2i", numbers)
    tokens = torch.cat([numbers["forced_ids"]] * 2)[:, :7]
    sequence = torch.cat([condition, model.tok_embeddings(tokens)], dim=1)
    logits = model(sequence, attention_mask(torch.ones_like(text_mask), sequence.shape[1]))[:, -8:]
    conditional, unconditional = logits.chunk(2)
    guided = unconditional + 7.5 * (conditional - unconditional)
    torch.testing.assert_close(guided, numbers["nomask_guided_logits_first8"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_the_cache_gives_the_numbers_of_one_pass(kind):
    model = build(kind, condition_tokens=6 if kind == "t2i" else 1)
    tokens = model.config.condition_tokens
    generator = torch.Generator().manual_seed(3)
    sequence = torch.randn(2, tokens + 10, 64, generator=generator)
    text_mask = torch.ones(2, tokens)
    text_mask[1, : tokens // 2] = 0
    mask = attention_mask(text_mask, sequence.shape[1])
    expected = model(sequence, mask)
    cache = KeyValues(model.config, 2, sequence.shape[1], sequence)
    found = [model(sequence[:, :tokens], mask[:, :, :tokens, :tokens], cache=cache)]
    for place in range(tokens, sequence.shape[1]):
        step = slice(place, place + 1)
        found.append(model(sequence[:, step], mask[:, :, step, : place + 1], start=place, cache=cache))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=0, atol=1e-5)


def test_the_mask_hides_padding_and_the_future_and_never_oneself():
    mask = attention_mask(torch.tensor([[0, 0, 1], [1, 1, 1]]), 5)
    assert mask.shape == (2, 1, 5, 5)
    expected = torch.tensor(
        [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]], dtype=torch.bool
    )
    assert torch.equal(mask[0, 0], expected)
    assert torch.equal(mask[1, 0], torch.ones(5, 5, dtype=torch.bool).tril())


def test_what_padding_holds_does_not_matter():
    model = build("t2i", condition_tokens=6)
    sequence = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(1))
    text_mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    other = sequence.clone()
    other[:, :2] += 5.0
    mask = attention_mask(text_mask, 9)
    torch.testing.assert_close(model(sequence, mask)[:, 2:], model(other, mask)[:, 2:], rtol=0, atol=1e-5)


def test_rotation_depends_on_the_distance_on_the_grid_alone():
    """The product of two rotated vectors is the same for the same step in rows and columns, wherever it starts."""
    table = rope_table(6, 16, 3)
    assert table[:3].abs().max() == 0
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(16, generator=generator), torch.randn(16, generator=generator)

    def product(first, second):
        places = [3 + row * 6 + column for row, column in (first, second)]
        turned = [rotate(x.view(1, 1, 1, 16), table[p : p + 1]) for x, p in zip((query, key), places, strict=True)]
        return (turned[0] * turned[1]).sum().item()

    assert product((1, 1), (2, 4)) == pytest.approx(product((3, 0), (4, 3)), abs=1e-5)
    assert product((1, 1), (2, 4)) != pytest.approx(product((1, 1), (4, 2)), abs=1e-2), "rows are no columns"
    assert product((0, 0), (0, 0)) == pytest.approx(float(query @ key), abs=1e-5)


@pytest.mark.parametrize("changes", [{"caption_dim": 8}, {"classes": None}, {"heads": 5}, {"dim": 24, "heads": 4}])
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(SoftDecodeError):
        GptConfig(**{**SIZES, **CONDITIONS["c2i"], **changes})
