"""LCDM against its exact limits (spec section 1) and an independent float64 reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from softdecode.errors import SoftDecodeError
from softdecode.mapping import (
    TokenDistribution,
    concatenate,
    entropy,
    hard_distribution,
    head_size,
    log_probabilities,
    map_logits,
    tail_entropy,
)

SIZES = (1, 2, 3, 5, 8, 9, 12, 30, 65, 70, 150)


def numpy_probabilities(logits):
    z = np.asarray(logits, dtype=np.float64)
    p = np.exp(z - z.max())
    return p / p.sum()


def numpy_entropy(p):
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def numpy_tail_entropy(p, head):
    tail = np.sort(p)[::-1][head:]
    if len(tail) < 2 or tail.sum() == 0:
        return 0.0
    return numpy_entropy(tail / tail.sum()) / math.log(len(tail))


def numpy_uncertainty(logits, minimum=8, maximum=64):
    """Equation 8 of one token, straight from its definition, in float64."""
    p = numpy_probabilities(logits)
    head = min(int(np.clip(np.round(np.exp(numpy_entropy(p))), minimum, maximum)), len(p))
    ranked = np.sort(p)[::-1]
    second = ranked[1] if len(p) > 1 else 0.0
    return np.array([ranked[0], ranked[0] - second, ranked[:head].sum(), numpy_tail_entropy(p, head)])


def far_from_rounding(logits):
    """Whether float32 cannot round exp(H) to another head size than float64."""
    return all(abs(np.exp(numpy_entropy(numpy_probabilities(row))) % 1 - 0.5) > 1e-3 for row in logits)


def random_codebook(size, dim=4, seed=0):
    rows = torch.randn(size, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def as_grid(rows):
    """[n, V] of numpy to logits [1, 1, n, V]."""
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))[None, None]


@st.composite
def token_logits(draw, limit=30.0):
    """A few tokens' logits [n, V], of every sharpness, with ties."""
    size = draw(st.sampled_from(SIZES))
    count = draw(st.integers(1, 3))
    if draw(st.booleans()):
        elements = st.floats(-limit, limit, width=32, allow_subnormal=False)
        return draw(hnp.arrays(np.float32, (count, size), elements=elements))
    spread = draw(st.sampled_from([0.01, 0.3, 1.0, 3.0, 8.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.clip(spread * random.standard_normal((count, size)), -limit, limit).astype(np.float32)


# --- the whole of the mapping -------------------------------------------------------------------------------------


@given(token_logits())
def test_everything_agrees_with_a_float64_reference(rows):
    assume(far_from_rounding(rows))
    codebook = random_codebook(rows.shape[1])
    mapped = map_logits(as_grid(rows), codebook)
    uncertainty = np.stack([numpy_uncertainty(row) for row in rows])
    codes = np.stack([numpy_probabilities(row) for row in rows]) @ codebook.double().numpy()
    np.testing.assert_allclose(mapped.uncertainty[0, 0], uncertainty, rtol=0, atol=2e-5)
    np.testing.assert_allclose(mapped.codes[0, 0], codes, rtol=0, atol=2e-6)
    # Codes nearer to each other than float32 can tell are equally probable.
    np.testing.assert_allclose(rows[range(len(rows)), mapped.tokens[0, 0]], rows.max(-1), rtol=1e-6, atol=1e-6)


@given(token_logits(limit=1000.0))
def test_results_stay_in_their_ranges(rows):
    mapped = map_logits(as_grid(rows), random_codebook(rows.shape[1]))
    top, margin, head, tail = mapped.uncertainty[0, 0].unbind(-1)
    assert (mapped.uncertainty >= 0).all()
    assert (mapped.uncertainty <= 1).all()
    assert (mapped.codes.norm(dim=-1) <= 1 + 1e-5).all()
    assert (top >= 1 / rows.shape[1] - 1e-6).all()
    assert (margin <= top).all()
    assert (head >= top).all()
    assert torch.isfinite(tail).all()


@given(token_logits(), st.integers(-1000, 1000))
def test_adding_a_constant_changes_nothing(rows, constant):
    rows = np.round(rows * 64) / 64  # the sum is exact in float32
    assume(far_from_rounding(rows))
    codebook = random_codebook(rows.shape[1])
    plain, shifted = map_logits(as_grid(rows), codebook), map_logits(as_grid(rows + constant), codebook)
    torch.testing.assert_close(shifted.codes, plain.codes, rtol=0, atol=1e-6)
    torch.testing.assert_close(shifted.uncertainty, plain.uncertainty, rtol=0, atol=1e-5)
    assert torch.equal(shifted.tokens, plain.tokens)


@given(token_logits(), st.randoms(use_true_random=False))
def test_permuting_the_codes_with_the_logits_changes_nothing(rows, random):
    assume(far_from_rounding(rows))
    order = list(range(rows.shape[1]))
    random.shuffle(order)
    codebook = random_codebook(rows.shape[1])
    plain, permuted = map_logits(as_grid(rows), codebook), map_logits(as_grid(rows[:, order]), codebook[order])
    torch.testing.assert_close(permuted.codes, plain.codes, rtol=0, atol=1e-6)
    torch.testing.assert_close(permuted.uncertainty, plain.uncertainty, rtol=0, atol=1e-5)
    originals = np.array(order)[permuted.tokens[0, 0].numpy()]
    np.testing.assert_allclose(rows[range(len(rows)), originals], rows.max(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 7, 24, 1000])
def test_the_chunk_size_changes_nothing(chunk, make_codebook):
    codebook = make_codebook(90)
    logits = 2 * torch.randn(2, 3, 4, 90, generator=torch.Generator().manual_seed(1))
    whole, parts = map_logits(logits, codebook), map_logits(logits, codebook, chunk=chunk)
    torch.testing.assert_close(parts.codes, whole.codes, rtol=0, atol=1e-6)
    torch.testing.assert_close(parts.uncertainty, whole.uncertainty, rtol=0, atol=1e-6)
    assert torch.equal(parts.tokens, whole.tokens)


def test_tokens_do_not_influence_each_other(make_codebook):
    codebook = make_codebook(90)
    sharpness = torch.tensor([0.1, 1.0, 3.0, 10.0])[:, None, None, None]  # heads of many sizes in one batch
    logits = sharpness * torch.randn(4, 2, 3, 90, generator=torch.Generator().manual_seed(2))
    together = map_logits(logits, codebook)
    order = [2, 0, 3, 1]
    reordered = map_logits(logits[order], codebook)
    for place, image in enumerate(order):
        alone = map_logits(logits[image : image + 1], codebook)
        for other, row in ((reordered, place), (alone, 0)):
            torch.testing.assert_close(other.codes[row], together.codes[image], rtol=0, atol=1e-6)
            torch.testing.assert_close(other.uncertainty[row], together.uncertainty[image], rtol=0, atol=1e-6)
            assert torch.equal(other.tokens[row], together.tokens[image])


# --- exact limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 64, 100])
@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 200.0), (-3e38, 3e38), (-3e38, 0.0), (0.0, 3e38), (-torch.inf, 5.0), (0.0, torch.inf)]
)
def test_one_hot_logits_give_that_code_and_no_uncertainty(size, low, high, make_codebook):
    codebook = make_codebook(size)
    logits = torch.full((1, 1, size, size), low)
    logits[0, 0].fill_diagonal_(high)
    mapped = map_logits(logits, codebook)
    assert torch.equal(mapped.codes[0, 0], codebook)
    assert torch.equal(mapped.uncertainty[0, 0], torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(size, 4))
    assert torch.equal(mapped.tokens[0, 0], torch.arange(size))


@pytest.mark.parametrize("size", [66, 100, 1000, 16384])
@pytest.mark.parametrize("constant", [0.0, -7.5, 3e38])
def test_uniform_logits_give_the_mean_code_and_most_uncertainty(size, constant, make_codebook):
    codebook = make_codebook(size)
    mapped = map_logits(torch.full((1, 1, 1, size), constant), codebook)
    torch.testing.assert_close(mapped.codes[0, 0, 0], codebook.mean(0), rtol=0, atol=1e-6)
    expected = torch.tensor([1 / size, 0.0, 64 / size, 1.0])
    torch.testing.assert_close(mapped.uncertainty[0, 0, 0], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8])
def test_a_codebook_within_the_head_has_all_mass_there_and_no_tail(size, make_codebook):
    logits = torch.randn(1, 2, 2, size, generator=torch.Generator().manual_seed(3))
    mapped = map_logits(logits, make_codebook(size))
    torch.testing.assert_close(mapped.uncertainty[..., 2], torch.ones(1, 2, 2), rtol=0, atol=1e-6)
    assert torch.equal(mapped.uncertainty[..., 3], torch.zeros(1, 2, 2))


def test_a_ruled_out_code_is_as_if_it_did_not_exist(make_codebook):
    codebook = make_codebook(50)
    logits = torch.randn(1, 1, 6, 50, generator=torch.Generator().manual_seed(4))
    masked = logits.masked_fill(torch.arange(50) >= 30, -torch.inf)
    with_mask, without = map_logits(masked, codebook), map_logits(logits[..., :30], codebook[:30])
    torch.testing.assert_close(with_mask.codes, without.codes, rtol=0, atol=1e-6)
    torch.testing.assert_close(with_mask.uncertainty[..., :3], without.uncertainty[..., :3], rtol=0, atol=1e-6)
    assert torch.equal(with_mask.tokens, without.tokens)
    # The tail's normaliser alone counts every code: log(V - K).
    for place in range(6):
        p = numpy_probabilities(masked[0, 0, place])
        head = int(np.clip(np.round(np.exp(numpy_entropy(p))), 8, 64))
        assert with_mask.uncertainty[0, 0, place, 3] == pytest.approx(numpy_tail_entropy(p, head), abs=1e-5)


def test_certain_codes_share_all_mass(make_codebook):
    codebook = make_codebook(20)
    logits = torch.randn(1, 1, 1, 20, generator=torch.Generator().manual_seed(5))
    logits[..., [3, 11]] = torch.inf
    logits[..., 7] = -torch.inf
    mapped = map_logits(logits, codebook)
    torch.testing.assert_close(mapped.codes[0, 0, 0], (codebook[3] + codebook[11]) / 2)
    torch.testing.assert_close(mapped.uncertainty[0, 0, 0], torch.tensor([0.5, 0.0, 1.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_float_dtype_is_worked_on_in_float32(dtype, make_codebook):
    codebook = make_codebook(90)
    logits = (5 * torch.randn(2, 2, 2, 90, generator=torch.Generator().manual_seed(6))).to(dtype)
    logits[0, 0, 0, :40] = -torch.inf
    logits[1, 1, 1, 8] = torch.inf
    mapped, wide = map_logits(logits, codebook), map_logits(logits.float(), codebook)
    assert mapped.codes.dtype == mapped.uncertainty.dtype == torch.float32
    assert torch.isfinite(mapped.codes).all()
    assert torch.isfinite(mapped.uncertainty).all()
    assert torch.equal(mapped.codes, wide.codes)
    assert torch.equal(mapped.uncertainty, wide.uncertainty)


def test_the_greatest_finite_values_of_each_dtype_are_one_hot(make_codebook):
    codebook = make_codebook(12)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        logits = torch.full((1, 1, 1, 12), torch.finfo(dtype).min, dtype=dtype)
        logits[..., 4] = torch.finfo(dtype).max
        mapped = map_logits(logits, codebook)
        assert torch.equal(mapped.codes[0, 0, 0], codebook[4])
        assert mapped.uncertainty[0, 0, 0].tolist() == [1, 1, 1, 0]


# --- the parts ----------------------------------------------------------------------------------------------------


def test_log_probabilities_are_normalised_and_ordered_as_the_logits():
    logits = 20 * torch.randn(50, 33, generator=torch.Generator().manual_seed(7))
    log_probs = log_probabilities(logits)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(50))
    torch.testing.assert_close(log_probs - log_probs[:, :1], logits - logits[:, :1], rtol=0, atol=1e-4)


def test_entropy_of_known_distributions():
    cases = {
        0.0: [1.0, 0.0, 0.0, 0.0],
        math.log(2): [0.5, 0.5, 0.0, 0.0],
        math.log(4): [0.25, 0.25, 0.25, 0.25],
        1.75 * math.log(2): [0.5, 0.25, 0.125, 0.125],
    }
    found = entropy(torch.tensor(list(cases.values())).log())
    torch.testing.assert_close(found, torch.tensor(list(cases)))


@pytest.mark.parametrize(
    ("perplexity", "head"), [(1, 8), (7.6, 8), (8.4, 8), (8.6, 9), (33.3, 33), (63.4, 63), (64.6, 64), (9000, 64)]
)
def test_the_head_is_the_rounded_perplexity_between_its_limits(perplexity, head):
    assert head_size(torch.tensor(math.log(perplexity))).item() == head
    assert head_size(torch.tensor(math.log(perplexity)), 2, 5).item() == np.clip(round(perplexity), 2, 5)


def test_the_head_has_as_many_codes_as_the_entropy_says(make_codebook):
    # 20 codes of equal mass: the perplexity is 20, so the head holds all of them; with at most 10, half.
    logits = torch.full((1, 1, 1, 100), -torch.inf)
    logits[..., 30:50] = 2.0
    codebook = make_codebook(100)
    assert map_logits(logits, codebook).uncertainty[0, 0, 0, 2].item() == pytest.approx(1)
    assert map_logits(logits, codebook, maximum_head=10).uncertainty[0, 0, 0, 2].item() == pytest.approx(0.5)


def test_a_head_of_one_code_has_the_mass_of_the_most_probable(make_codebook):
    logits = torch.randn(1, 1, 5, 30, generator=torch.Generator().manual_seed(10))
    plain = map_logits(logits, make_codebook(30))
    one = map_logits(logits, make_codebook(30), minimum_head=1, maximum_head=1)
    torch.testing.assert_close(one.uncertainty[..., 2], plain.uncertainty[..., 0])
    torch.testing.assert_close(one.uncertainty[..., :2], plain.uncertainty[..., :2])


@given(token_logits(), st.data())
def test_tail_entropy_against_the_reference_for_any_head(rows, data):
    size = rows.shape[1]
    heads = data.draw(st.lists(st.integers(1, size), min_size=len(rows), max_size=len(rows)))
    found = tail_entropy(log_probabilities(torch.from_numpy(rows)), torch.tensor(heads))
    expected = [numpy_tail_entropy(numpy_probabilities(row), head) for row, head in zip(rows, heads, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_given_tokens_are_kept_and_change_nothing_else(make_codebook):
    codebook = make_codebook(20)
    logits = torch.randn(1, 2, 3, 20, generator=torch.Generator().manual_seed(8))
    tokens = torch.arange(6).view(1, 2, 3)
    mapped, nearest = map_logits(logits, codebook, tokens=tokens), map_logits(logits, codebook)
    assert torch.equal(mapped.tokens, tokens)
    assert torch.equal(nearest.tokens, logits.argmax(-1))
    assert torch.equal(mapped.codes, nearest.codes)
    assert torch.equal(mapped.uncertainty, nearest.uncertainty)


def test_a_hard_distribution_is_the_chosen_codes_without_uncertainty(make_codebook):
    codebook = make_codebook(20)
    tokens = torch.randint(0, 20, (2, 3, 4), generator=torch.Generator().manual_seed(9))
    hard = hard_distribution(tokens, codebook)
    for place in np.ndindex(2, 3, 4):
        assert torch.equal(hard.codes[place], codebook[tokens[place]])
    assert torch.equal(hard.tokens, tokens)
    assert torch.equal(hard.uncertainty, torch.zeros(2, 3, 4, 4))


# --- refusals -----------------------------------------------------------------------------------------------------


def test_nan_logits_are_refused(make_codebook):
    logits = torch.zeros(1, 2, 2, 9)
    logits[0, 1, 0, 3] = torch.nan
    with pytest.raises(SoftDecodeError, match="NaN"):
        map_logits(logits, make_codebook(9))


def test_a_token_without_a_possible_code_is_refused(make_codebook):
    logits = torch.zeros(1, 2, 2, 9)
    logits[0, 1, 1] = -torch.inf
    with pytest.raises(SoftDecodeError, match="every code"):
        map_logits(logits, make_codebook(9))


@pytest.mark.parametrize(
    ("logits", "codebook"),
    [
        ((2, 3, 9), (9, 4)),
        ((1, 2, 3, 9), (8, 4)),
        ((1, 2, 3, 9), (9,)),
        ((1, 2, 3, 9), (4, 9)),
        ((1, 1, 2, 3, 9), (9, 4)),
    ],
)
def test_shapes_that_disagree_are_refused_by_name(logits, codebook):
    with pytest.raises(SoftDecodeError) as caught:
        map_logits(torch.zeros(logits), torch.zeros(codebook))
    assert str(list(logits)) in str(caught.value)
    assert str(list(codebook)) in str(caught.value)


@pytest.mark.parametrize(("minimum", "maximum"), [(0, 8), (9, 8), (-1, 64)])
def test_impossible_heads_are_refused(minimum, maximum, make_codebook):
    with pytest.raises(SoftDecodeError, match="head"):
        map_logits(torch.zeros(1, 1, 1, 9), make_codebook(9), minimum_head=minimum, maximum_head=maximum)


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": torch.zeros(2, 3, 4, dtype=torch.int32)},
        {"tokens": torch.zeros(2, 12, dtype=torch.int64)},
        {"codes": torch.zeros(2, 4, 3, 6)},
        {"codes": torch.zeros(2, 3, 4)},
        {"codes": torch.full((2, 3, 4, 6), torch.nan)},
        {"uncertainty": torch.zeros(2, 3, 4, 3)},
        {"uncertainty": torch.zeros(2, 3, 4)},
        {"uncertainty": torch.full((2, 3, 4, 4), torch.inf)},
    ],
)
def test_a_distribution_refuses_parts_that_do_not_fit(changed):
    parts = {
        "tokens": torch.zeros(2, 3, 4, dtype=torch.int64),
        "codes": torch.zeros(2, 3, 4, 6),
        "uncertainty": torch.zeros(2, 3, 4, 4),
    }
    TokenDistribution(**parts)
    with pytest.raises(SoftDecodeError, match=next(iter(changed))):
        TokenDistribution(**{**parts, **changed})


# --- TokenDistribution --------------------------------------------------------------------------------------------


def assert_same(one, other):
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.uncertainty, other.uncertainty)


@pytest.mark.parametrize(
    "index", [slice(1, 3), [2, 0], torch.tensor([1, 1, 3]), torch.tensor([True, False, True, False])]
)
def test_indexing_selects_whole_images(index, make_codebook, make_distribution):
    whole = make_distribution(make_codebook(), batch=4, grid=(2, 3))
    chosen = torch.arange(4)[index].tolist()
    part = whole[index]
    assert len(part) == len(chosen)
    for place, image in enumerate(chosen):
        assert_same(part[place : place + 1], whole[image : image + 1])


def test_concatenating_the_parts_gives_the_whole(make_codebook, make_distribution):
    whole = make_distribution(make_codebook(), batch=4, grid=(2, 3))
    assert_same(concatenate([whole[:1], whole[1:3], whole[3:]]), whole)


def test_a_saved_distribution_is_read_back_bit_by_bit(tmp_path, make_codebook, make_distribution):
    saved = make_distribution(make_codebook(), batch=2, grid=(2, 3))
    saved.save(tmp_path / "belief.safetensors", {"vlm": "a"})
    assert_same(TokenDistribution.load(tmp_path / "belief.safetensors"), saved)


def test_saving_a_part_of_a_batch_saves_that_part_only(tmp_path, make_codebook, make_distribution):
    whole = make_distribution(make_codebook(), batch=3, grid=(2, 3))
    whole[1:2].save(tmp_path / "one.safetensors")
    assert_same(TokenDistribution.load(tmp_path / "one.safetensors"), whole[1:2])


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_an_error_that_names_it(kept, tmp_path, make_codebook, make_distribution):
    path = tmp_path / "belief.safetensors"
    make_distribution(make_codebook(), batch=2, grid=(2, 3)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SoftDecodeError, match=r"belief\.safetensors is damaged"):
        TokenDistribution.load(path)


def test_a_file_of_something_else_is_an_error_that_says_what_it_holds(tmp_path):
    from softdecode.files import write_tensors

    write_tensors(
        tmp_path / "other.safetensors", {"tokens": torch.zeros(1, 1, 1, dtype=torch.int64), "weight": torch.ones(2)}
    )
    with pytest.raises(SoftDecodeError, match=r"\['tokens', 'weight'\]"):
        TokenDistribution.load(tmp_path / "other.safetensors")
    with pytest.raises(SoftDecodeError, match="does not exist"):
        TokenDistribution.load(tmp_path / "absent.safetensors")
