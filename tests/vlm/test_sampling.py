"""The sampling loop: guidance, cuts, draws that follow the probabilities, and each step's reduction."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.mapping import map_logits
from softdecode.seeds import generator_for
from softdecode.vlm.base import SamplingConfig
from softdecode.vlm.sampling import draw, guide, keep_top_k, keep_top_p, sample_tokens

SIZE, GRID = 12, (2, 3)
PLAIN = SamplingConfig(guidance_scale=1.0)


def random_logits(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frequencies(logits, sampling, count=20_000):
    """How often each code is drawn of logits [V]: numbers from one generator, one after another."""
    generator = torch.Generator().manual_seed(0)
    tokens = draw(logits.expand(count, -1), sampling, [generator] * count)
    return torch.bincount(tokens, minlength=len(logits)).double()


class FakeModel:
    """Logits that depend on the image, the step and the token just drawn, as a language model's do."""

    def __init__(self, images, guided=True, dtype=torch.float32):
        self.images, self.guided = images, guided
        self.table = random_logits(2, 5, GRID[0] * GRID[1], SIZE + 1, SIZE, seed=1).to(dtype)
        self.received = []

    def __call__(self, tokens):
        step = len(self.received)
        self.received.append(tokens)
        last = [SIZE] * len(self.images) if tokens is None else tokens.tolist()
        conditional, unconditional = self.table[:, self.images, step, last]
        return conditional, unconditional if self.guided else None


# --- guidance, top-k ----------------------------------------------------------------------------------------------


def test_guidance_is_the_formula():
    conditional, unconditional = random_logits(2, 3, SIZE)
    found = guide(conditional, unconditional, 5.0)
    c, u = conditional.double().numpy(), unconditional.double().numpy()
    np.testing.assert_allclose(found, u + 5 * (c - u), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)


def test_guidance_is_computed_in_float32():
    conditional, unconditional = (part.bfloat16() for part in random_logits(2, 3, SIZE))
    found = guide(conditional, unconditional, 5.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, guide(conditional.float(), unconditional.float(), 5.0))


def test_a_code_ruled_out_with_and_without_the_prompt_stays_ruled_out():
    conditional, unconditional = random_logits(2, 1, SIZE)
    conditional[0, 4] = unconditional[0, 4] = -torch.inf
    found = guide(conditional, unconditional, 5.0)
    assert found[0, 4] == -torch.inf
    assert torch.isfinite(found[0, :4]).all()


@pytest.mark.parametrize("top_k", [1, 3, 11])
def test_top_k_keeps_the_k_greatest(top_k):
    logits = random_logits(6, SIZE)
    kept = keep_top_k(logits, top_k)
    for row, cut in zip(logits.tolist(), kept.tolist(), strict=True):
        greatest = sorted(row)[-top_k:]
        assert cut == [value if value in greatest else -np.inf for value in row]


@pytest.mark.parametrize("top_k", [0, SIZE, SIZE + 5])
def test_top_k_of_all_changes_nothing(top_k):
    logits = random_logits(6, SIZE)
    assert torch.equal(keep_top_k(logits, top_k), logits)


def test_ties_with_the_kth_stay():
    kept = keep_top_k(torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]]), 2)
    assert kept.tolist() == [[-torch.inf, 3.0, 2.0, 2.0, -torch.inf]]


# --- draws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draws_follow_the_softmax(sharpness, dtype):
    logits = (sharpness * random_logits(SIZE)).to(dtype)
    counts = frequencies(logits, PLAIN)
    expected = 20_000 * torch.softmax(logits.double(), -1)
    chi_square = ((counts - expected).square() / expected).sum()
    assert chi_square < 42  # 11 degrees of freedom: exceeded once in 60,000


def test_draws_after_a_cut_follow_the_softmax_of_what_is_left():
    logits = random_logits(SIZE)
    counts = frequencies(logits, SamplingConfig(top_k=4))
    kept = logits.topk(4).indices
    assert counts[kept].sum() == 20_000
    expected = 20_000 * torch.softmax(logits[kept].double(), -1)
    assert ((counts[kept] - expected).square() / expected).sum() < 27  # 3 degrees of freedom


def test_codes_without_mass_are_never_drawn():
    logits = torch.zeros(SIZE)
    ruled_out = [0, 1, 5, 6, SIZE - 1]
    logits[ruled_out] = -torch.inf
    counts = frequencies(logits, PLAIN)
    assert counts[ruled_out].sum() == 0
    assert (np.delete(counts.numpy(), ruled_out) > 0).all()


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.49, 1), (0.51, 3), (1 - 2**-53, 3)])
def test_the_extreme_uniform_numbers_hit_codes_with_mass(uniform, token, monkeypatch):
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    monkeypatch.setattr(torch, "rand", lambda *_size, **_options: torch.tensor([uniform], dtype=torch.float64))
    assert draw(logits, PLAIN, [torch.Generator()]).tolist() == [token]


def test_a_draw_depends_on_its_own_row_and_generator_only():
    logits = random_logits(50, SIZE)
    together = draw(logits, PLAIN, [generator_for("test", row) for row in range(50)])
    backwards = draw(logits.flip(0), PLAIN, [generator_for("test", row) for row in reversed(range(50))])
    alone = [draw(logits[row : row + 1], PLAIN, [generator_for("test", row)]).item() for row in range(50)]
    assert together.tolist() == alone
    assert backwards.flip(0).tolist() == alone
    others = draw(logits, PLAIN, [generator_for("test", row + 50) for row in range(50)])
    assert others.tolist() != alone


def test_temperature_zero_takes_the_most_probable_and_no_random_number():
    logits = random_logits(6, SIZE)
    generators = [generator_for("test", row) for row in range(6)]
    before = [generator.get_state() for generator in generators]
    found = draw(logits, SamplingConfig(temperature=0), generators)
    assert found.tolist() == [int(np.argmax(row)) for row in logits.numpy()]
    assert all(torch.equal(state, g.get_state()) for state, g in zip(before, generators, strict=True))


def test_nan_logits_are_refused():
    with pytest.raises(SoftDecodeError, match="NaN"):
        draw(torch.full((1, SIZE), torch.nan), PLAIN, [torch.Generator()])


# --- the loop -----------------------------------------------------------------------------------------------------


def run(
    images=(0, 1, 2), seeds=(10, 11, 12), guided=True, dtype=torch.float32, sampling=None, codebook=None, **options
):
    model = FakeModel(list(images), guided, dtype)
    result = sample_tokens(
        model, codebook=codebook, grid=GRID, seeds=list(seeds), sampling=sampling or SamplingConfig(), **options
    )
    return model, result


@pytest.mark.parametrize(
    ("sampling", "guided"),
    [
        (SamplingConfig(guidance_scale=5.0, temperature=1.0), True),
        (SamplingConfig(guidance_scale=2.0, temperature=0.7, top_k=4), True),
        (SamplingConfig(guidance_scale=3.0, temperature=0), True),
        (SamplingConfig(guidance_scale=3.0, temperature=2.0), False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_step_is_the_mapping_of_its_guided_tempered_logits(sampling, guided, dtype, make_codebook):
    codebook = make_codebook(SIZE)
    seen = []
    model, result = run(guided=guided, dtype=dtype, sampling=sampling, codebook=codebook, on_logits=seen.append)
    assert result.tokens.shape == (3, *GRID)
    # The model is given nothing at first, then each token it drew, row by row.
    assert model.received[0] is None
    for step, place in enumerate(itertools.product(range(2), range(3))):
        if step < 5:
            assert torch.equal(model.received[step + 1], result.tokens[:, *place])
        last = [SIZE] * 3 if step == 0 else model.received[step].tolist()
        conditional, unconditional = model.table[:, [0, 1, 2], step, last].float()
        logits = unconditional + sampling.guidance_scale * (conditional - unconditional) if guided else conditional
        logits = logits / (sampling.temperature or 1)
        torch.testing.assert_close(seen[step], logits, rtol=0, atol=1e-5)
        belief = map_logits(logits[:, None, None], codebook)  # before the cut
        torch.testing.assert_close(result.codes[:, *place], belief.codes[:, 0, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(result.uncertainty[:, *place], belief.uncertainty[:, 0, 0], rtol=0, atol=1e-5)
        if sampling.temperature == 0:
            assert torch.equal(result.tokens[:, *place], belief.tokens[:, 0, 0])
        if sampling.top_k:
            assert all(t in row.topk(4).indices for t, row in zip(result.tokens[:, *place], logits, strict=True))
    assert len(model.received) == len(seen) == 6


def test_images_are_drawn_from_their_own_seeds_in_any_batch(make_codebook):
    codebook = make_codebook(SIZE)
    _, together = run(codebook=codebook, sampling=PLAIN)
    _, reordered = run((2, 0, 1), (12, 10, 11), codebook=codebook, sampling=PLAIN)
    assert torch.equal(reordered.tokens, together.tokens[[2, 0, 1]])
    for place in range(3):
        _, alone = run((place,), (10 + place,), codebook=codebook, sampling=PLAIN)
        assert torch.equal(alone.tokens[0], together.tokens[place])
        torch.testing.assert_close(alone.codes[0], together.codes[place], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.uncertainty[0], together.uncertainty[place], rtol=0, atol=1e-6)
    _, others = run(seeds=(20, 21, 22), codebook=codebook, sampling=PLAIN)
    assert not torch.equal(others.tokens, together.tokens)
    _, same = run((1, 1, 1), (7, 7, 8), codebook=codebook, sampling=PLAIN)
    assert torch.equal(same.tokens[0], same.tokens[1])
    assert not torch.equal(same.tokens[0], same.tokens[2])


def test_smoothing_changes_the_belief_and_never_the_draw(make_codebook):
    codebook = make_codebook(SIZE)
    plain_seen, smooth_seen = [], []
    _, plain = run(codebook=codebook, on_logits=plain_seen.append)
    calibration = Calibration(kappa=25.0, alpha=3.0, beta=1.0, epsilon=0.3)  # only epsilon has a say
    _, smoothed = run(codebook=codebook, calibration=calibration, on_logits=smooth_seen.append)
    assert torch.equal(smoothed.tokens, plain.tokens)
    assert all(torch.equal(a, b) for a, b in zip(plain_seen, smooth_seen, strict=True))
    torch.testing.assert_close(smoothed.codes, 0.7 * plain.codes + 0.3 * codebook.mean(0), rtol=0, atol=1e-6)
    top = 0.7 * plain.uncertainty[..., 0] + 0.3 / SIZE
    torch.testing.assert_close(smoothed.uncertainty[..., 0], top, rtol=0, atol=1e-6)


def test_progress_counts_every_token(make_codebook):
    counted = []
    run(codebook=make_codebook(SIZE), on_token=lambda *n: counted.append(n))
    assert counted == [(done, 6) for done in range(1, 7)]


# --- top-p --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.05, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.95, 4), (1.0, 4)]
)
def test_top_p_keeps_the_most_probable_codes_whose_mass_first_exceeds_it(top_p, kept):
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    found = keep_top_p(probs.log(), top_p).exp()
    expected = torch.where(probs.argsort(-1, descending=True).argsort(-1) < kept, probs, torch.zeros(()))
    torch.testing.assert_close(found, expected)


GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "llamagen_t2i"


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs LlamaGen's golden probabilities, which are not here")
def test_the_filters_are_llamagens():
    numbers = load_file(GOLDEN / "sampling.safetensors")
    for case in json.loads((GOLDEN / "sampling.json").read_text()):
        logits = keep_top_p(keep_top_k(numbers["logits"] / case["temperature"], case["top_k"]), case["top_p"])
        torch.testing.assert_close(logits.softmax(-1), numbers[case["tensor"]], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(top_p):
    with pytest.raises(SoftDecodeError, match="top_p"):
        SamplingConfig(top_p=top_p)
