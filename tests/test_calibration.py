"""Calibration: the transform's algebra, statistics against numpy, Otsu against brute force, and recovery by the fit."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softdecode.calibration import Calibration, fit_calibration, proxy_logits, smooth
from softdecode.errors import SoftDecodeError
from softdecode.mapping import entropy, log_probabilities
from softdecode.statistics import StatisticsAccumulator, otsu_rank, statistics

seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 3, 8, 50, 200])
epsilons = st.floats(1e-6, 0.9)


def random_similarities(seed, size, count=20):
    return 2 * torch.rand(count, size, generator=torch.Generator().manual_seed(seed)) - 1


def numpy_softmax(logits):
    z = np.asarray(logits, dtype=np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def numpy_entropies(p):
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)


def brute_force_otsu(profile):
    """The split of least variance within the classes, which is that of greatest variance between them."""
    within = [
        size * profile[:size].var() + (len(profile) - size) * profile[size:].var() for size in range(1, len(profile))
    ]
    return int(np.argmin(within)) + 1


def numpy_statistics(logits, codebook):
    """Every statistic from its definition, in float64, of logits [n, V]."""
    p = numpy_softmax(logits)
    size = p.shape[1]
    ranked = -np.sort(-p, axis=-1)
    entropies = numpy_entropies(p) / math.log(size)
    tail = ranked[:, 8:]
    tail_entropies = numpy_entropies(tail / tail.sum(-1, keepdims=True)) / math.log(size - 8)
    profile = ranked.mean(0)
    rank = brute_force_otsu(profile)
    return {
        "tokens": len(p),
        "top1": ranked[:, 0].mean(),
        "top2": ranked[:, 1].mean(),
        "top1_p95": np.percentile(ranked[:, 0], 95, method="inverted_cdf"),
        "entropy": entropies.mean(),
        "entropy_p95": np.percentile(entropies, 95, method="inverted_cdf"),
        "tail_entropy": tail_entropies.mean(),
        "otsu_rank": rank,
        "otsu_threshold": profile[rank - 1],
        "head_mass": profile[:rank].sum(),
        "code_norm": np.linalg.norm(p @ codebook.double().numpy(), axis=-1).mean(),
        "profile": profile[:30],
    }


# --- the transform ------------------------------------------------------------------------------------------------


@given(seeds, sizes, st.floats(0.1, 60), st.floats(0.2, 5), st.floats(-3, 3), st.sampled_from([0.0, 0.01, 0.3]))
def test_beta_cancels_and_only_the_product_of_kappa_and_alpha_matters(seed, size, kappa, alpha, beta, epsilon):
    similarities = random_similarities(seed, size)
    four = Calibration(kappa=kappa, alpha=alpha, beta=beta, epsilon=epsilon).for_encoder(similarities)
    two = Calibration(kappa=kappa * alpha, epsilon=epsilon).for_encoder(similarities)
    # float32 rounds kappa·(alpha·S + beta), at most 480 here, to 3e-5.
    torch.testing.assert_close(four, two, rtol=0, atol=2e-4)


@given(seeds, sizes, st.floats(0.1, 60), epsilons)
def test_the_transform_is_equations_14_and_15(seed, size, kappa, epsilon):
    similarities = random_similarities(seed, size)
    found = Calibration(kappa=kappa, epsilon=epsilon).for_encoder(similarities).exp()
    expected = (1 - epsilon) * numpy_softmax(kappa * similarities.double().numpy()) + epsilon / size
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@given(seeds, sizes, epsilons)
def test_smoothing_is_the_exact_mixture_and_stays_normalised(seed, size, epsilon):
    log_probs = log_probabilities(30 * random_similarities(seed, size))
    smoothed = smooth(log_probs, epsilon)
    torch.testing.assert_close(smoothed.logsumexp(-1), torch.zeros(20), rtol=0, atol=1e-5)
    mixture = (1 - epsilon) * log_probs.double().exp() + epsilon / size
    torch.testing.assert_close(smoothed.double(), mixture.log(), rtol=1e-5, atol=1e-5)
    assert (smoothed >= math.log(epsilon / size) - 1e-5).all()


def test_no_smoothing_changes_not_one_bit():
    log_probs = log_probabilities(30 * random_similarities(0, 50))
    assert torch.equal(smooth(log_probs, 0.0), log_probs)


def test_smoothing_gives_ruled_out_codes_their_share():
    smoothed = smooth(torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf]), 0.2)
    torch.testing.assert_close(smoothed.exp(), torch.tensor([0.85, 0.05, 0.05, 0.05]))


def test_the_vlms_own_logits_get_the_smoothing_alone():
    logits = 5 * random_similarities(1, 50)
    calibration = Calibration(kappa=25.0, alpha=2.0, beta=1.0, epsilon=0.1)
    expected = 0.9 * numpy_softmax(logits) + 0.1 / 50
    np.testing.assert_allclose(calibration.for_vlm(logits).exp(), expected, rtol=1e-5)
    assert torch.equal(replace(calibration, epsilon=0.0).for_vlm(logits), log_probabilities(logits))


def test_a_small_kappa_gives_the_uniform_distribution():
    calibrated = Calibration(kappa=1e-6).for_encoder(random_similarities(2, 50))
    torch.testing.assert_close(calibrated.exp(), torch.full((20, 50), 0.02), rtol=1e-5, atol=0)


def test_a_large_kappa_gives_the_nearest_code_alone():
    similarities = random_similarities(3, 50)
    calibrated = Calibration(kappa=1e9).for_encoder(similarities)
    assert torch.equal(calibrated.exp(), torch.nn.functional.one_hot(similarities.argmax(-1), 50).float())


@given(seeds, sizes, st.floats(0.01, 100), st.floats(1.01, 3), st.sampled_from([0.0, 0.05]))
def test_entropy_falls_as_kappa_rises(seed, size, kappa, factor, epsilon):
    similarities = random_similarities(seed, size)
    softer = entropy(Calibration(kappa=kappa, epsilon=epsilon).for_encoder(similarities))
    sharper = entropy(Calibration(kappa=kappa * factor, epsilon=epsilon).for_encoder(similarities))
    assert (sharper <= softer + 2e-6).all()


@pytest.mark.parametrize(
    "wrong", [{"kappa": 0.0}, {"kappa": -1.0}, {"kappa": math.nan}, {"alpha": 0.0}, {"epsilon": -0.1}, {"epsilon": 1.0}]
)
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(SoftDecodeError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Calibration(**wrong)


# --- proxy logits -------------------------------------------------------------------------------------------------


def test_proxy_logits_are_cosines_whatever_the_features_length(make_codebook):
    codebook = make_codebook(60, 8)
    features = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(4))
    lengths = torch.logspace(-3, 3, 24).view(2, 3, 4, 1)
    found = proxy_logits(features * lengths, codebook)
    f, e = features.double().numpy(), codebook.double().numpy()
    for place in np.ndindex(2, 3, 4):
        cosines = e @ f[place] / np.linalg.norm(f[place])
        np.testing.assert_allclose(found[place], cosines, rtol=0, atol=1e-6)
        # Among unit vectors, the greatest cosine is the least distance.
        distances = np.linalg.norm(e - f[place] / np.linalg.norm(f[place]), axis=-1)
        assert found[place].argmax() == distances.argmin()


def test_the_codes_themselves_have_their_own_place(make_codebook):
    codebook = make_codebook(60, 8)
    found = proxy_logits(codebook.view(3, 4, 5, 8), codebook)
    assert torch.equal(found.argmax(-1).flatten(), torch.arange(60))
    torch.testing.assert_close(found.amax(-1), torch.ones(3, 4, 5))


# --- statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("size", [12, 40, 300])
def test_statistics_against_numpy(size, sharpness, make_codebook):
    codebook = make_codebook(size)
    logits = sharpness * torch.randn(
        5, 4, 5, size, generator=torch.Generator().manual_seed(size)
    )  # 95% of 100 is whole
    found = asdict(statistics([logits[:2], logits[2:]], codebook))
    expected = numpy_statistics(logits.view(-1, size).numpy(), codebook)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_statistics_of_sure_and_of_clueless_tokens(make_codebook):
    codebook = make_codebook(100)
    sure = statistics([torch.eye(100) * 1000], codebook)
    assert (sure.top1, sure.top2, sure.entropy, sure.tail_entropy, sure.otsu_rank, sure.head_mass) == (1, 0, 0, 0, 1, 1)
    assert sure.code_norm == pytest.approx(1)
    clueless = statistics([torch.zeros(7, 100)], codebook)
    found = (clueless.top1, clueless.top2, clueless.entropy, clueless.tail_entropy, clueless.code_norm)
    assert found == pytest.approx((0.01, 0.01, 1, 1, float(codebook.mean(0).norm())), rel=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 30, 60])
def test_statistics_do_not_depend_on_batching_or_order(batch, make_codebook):
    codebook = make_codebook(70)
    logits = 3 * torch.randn(60, 70, generator=torch.Generator().manual_seed(5))
    whole = asdict(statistics([logits], codebook))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(6))
    parts = asdict(statistics(logits[order].split(batch), codebook))
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-6, err_msg=name)


def test_statistics_of_nothing_are_refused(make_codebook):
    with pytest.raises(SoftDecodeError, match="no tokens"):
        statistics([], make_codebook())
    with pytest.raises(SoftDecodeError, match="no tokens"):
        StatisticsAccumulator(make_codebook()).result()


@settings(max_examples=100)
@given(seeds, st.sampled_from([2, 3, 10, 100]), st.floats(0.1, 8))
def test_otsus_rank_is_the_best_of_all_splits(seed, size, sharpness):
    random = np.random.default_rng(seed)
    profile = -np.sort(-numpy_softmax(sharpness * random.standard_normal(size)))
    assert otsu_rank(torch.from_numpy(profile)) == brute_force_otsu(profile)


@pytest.mark.parametrize(
    ("profile", "rank"),
    [
        ([0.4, 0.4, 0.05, 0.05, 0.05, 0.05], 2),
        ([0.9, 0.05, 0.05], 1),
        ([0.3, 0.3, 0.3, 0.1], 3),
        ([0.7, 0.3], 1),
        ([0.25] * 4 + [0.0] * 96, 4),
    ],
)
def test_otsus_rank_of_profiles_with_one_step(profile, rank):
    assert otsu_rank(torch.tensor(profile)) == rank


def test_otsus_rank_needs_two_codes():
    with pytest.raises(SoftDecodeError, match="at least 2"):
        otsu_rank(torch.ones(1))


# --- the fit ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(make_codebook):
    """A codebook, and the similarities of features near some of its codes, in two batches."""
    codebook = make_codebook(100, 6, seed=1)
    generator = torch.Generator().manual_seed(7)
    chosen = codebook[torch.randint(0, 100, (4, 5, 5), generator=generator)]
    similarities = proxy_logits(chosen + 0.3 * torch.randn(4, 5, 5, 6, generator=generator), codebook)
    return codebook, lambda: similarities.split(2)


@pytest.mark.parametrize(("kappa", "epsilon"), [(25.0, 0.0), (12.0, 0.01), (40.0, 0.05), (3.0, 0.002)])
def test_the_fit_recovers_the_transform_that_made_the_target(kappa, epsilon, encoder):
    codebook, similarities = encoder
    true = Calibration(kappa=kappa, epsilon=epsilon)
    target = statistics((true.for_encoder(part) for part in similarities()), codebook)
    fitted = fit_calibration(similarities, target, codebook, codebook_sha256="abc", protocol={"images": 4})
    assert fitted.kappa == pytest.approx(kappa, rel=2e-3)
    assert fitted.epsilon == pytest.approx(epsilon, abs=1e-6)
    assert (fitted.alpha, fitted.beta, fitted.codebook_sha256, fitted.protocol) == (1.0, 0.0, "abc", {"images": 4})
    assert fitted.target == target
    # What is reported as reached and as raw is what the fitted transform, and none, do.
    assert fitted.reached == statistics((fitted.for_encoder(part) for part in similarities()), codebook)
    assert fitted.raw == statistics(similarities(), codebook)
    assert fitted.reached.entropy == pytest.approx(target.entropy, abs=1e-4)
    assert fitted.reached.top1 == pytest.approx(target.top1, abs=1e-3)


def test_the_fit_refines_an_epsilon_between_those_of_its_grid(encoder):
    codebook, similarities = encoder
    true = Calibration(kappa=30.0, epsilon=0.03)
    target = statistics((true.for_encoder(part) for part in similarities()), codebook)
    coarse = fit_calibration(similarities, target, codebook, epsilons=(0.0, 0.05))
    assert coarse.epsilon == pytest.approx(0.03, abs=0.05 / 12 + 1e-6)  # half a step of the refined grid
    assert abs(coarse.reached.entropy - target.entropy) <= 0.005


def test_the_search_is_not_misled_by_the_grids_period(make_codebook):
    """Images of 8 columns whose first is blank: a sample of every 8th token would know blank tokens alone."""
    codebook = make_codebook(64, 6)
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(1030, 8, 8, 6, generator=generator)
    features[:, :, 0] = codebook[3] + 0.01 * torch.randn(1030, 8, 6, generator=generator)
    similarities = proxy_logits(features, codebook)
    target = statistics([Calibration(kappa=12.0, epsilon=0.02).for_encoder(similarities)], codebook)
    fitted = fit_calibration(lambda: similarities.split(100), target, codebook)
    assert fitted.epsilon == pytest.approx(0.02, abs=0.005)
    assert fitted.kappa == pytest.approx(12.0, rel=0.05)
    again = fit_calibration(lambda: similarities.split(333), target, codebook)
    assert (again.kappa, again.epsilon) == pytest.approx((fitted.kappa, fitted.epsilon), rel=1e-3)


@pytest.mark.parametrize(
    ("changed", "limits"),
    [({"entropy": 0.02}, (1.0, 5.0)), ({"entropy": 0.9}, (20.0, 30.0)), ({"entropy": 1.0}, (1.0, 1000.0))],
)
def test_a_target_out_of_reach_is_an_error_with_the_numbers(changed, limits, encoder):
    codebook, similarities = encoder
    target = replace(statistics(similarities(), codebook), **changed)
    with pytest.raises(SoftDecodeError) as caught:
        fit_calibration(similarities, target, codebook, kappa_range=limits, epsilons=(0.0,), tolerance=0.001)
    assert f"{changed['entropy']:.4f}" in str(caught.value)
    assert str(limits) in str(caught.value)


@pytest.mark.parametrize("limits", [(0.0, 10.0), (10.0, 10.0), (20.0, 10.0), (-1.0, 1.0)])
def test_a_range_that_does_not_ascend_from_above_zero_is_refused(limits, encoder):
    codebook, similarities = encoder
    with pytest.raises(SoftDecodeError, match="kappa range"):
        fit_calibration(similarities, statistics(similarities(), codebook), codebook, kappa_range=limits)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_calibration(encoder):
    codebook, similarities = encoder
    raw = statistics(similarities(), codebook)
    return Calibration(
        kappa=1 / 3, alpha=2 / 3, beta=-0.1, epsilon=0.1 + 0.2, codebook_sha256="abc", target=raw,
        reached=replace(raw, top1=1e-17), raw=None, protocol={"prompts": ["a", "ü"], "seed": 3, "guidance": 5.0},
    )  # fmt: skip


def test_a_saved_calibration_is_read_back_exactly(tmp_path, full_calibration):
    full_calibration.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == full_calibration
    Calibration().save(tmp_path / "none.json")
    assert Calibration.load(tmp_path / "none.json") == Calibration()


def test_the_file_has_the_papers_four_names(tmp_path, full_calibration):
    full_calibration.save(tmp_path / "calibration.json")
    content = json.loads((tmp_path / "calibration.json").read_text(encoding="utf-8"))
    found = (content["kappa"], content["alpha"], content["beta"], content["epsilon"])
    assert found == (1 / 3, 2 / 3, -0.1, 0.1 + 0.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a calibration file"),
        ("{}", "not a calibration file"),
        ('{"format": "softdecode-calibration-99"}', "not a calibration file"),
        ('{"format": "softdecode-calib', "not valid JSON"),
        ('{"format": "softdecode-calibration-1"}', "not a whole calibration file"),
    ],
)
def test_another_file_is_an_error_that_names_it(text, message, tmp_path):
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(SoftDecodeError, match=message) as caught:
        Calibration.load(tmp_path / "c.json")
    assert str(tmp_path / "c.json") in str(caught.value)


def test_an_absent_file_is_an_error(tmp_path):
    with pytest.raises(SoftDecodeError, match="cannot read"):
        Calibration.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("target", "top1"), None, "top1"),  # None removes the entry
        (("target", "surplus"), 1, "surplus"),
        (("surplus",), 1, "surplus"),
        (("reached",), None, "reached"),
        (("kappa",), -1.0, "kappa"),
        (("kappa",), "25", "not a whole"),
    ],
)
def test_a_damaged_file_is_an_error_that_says_what(path, value, message, tmp_path, full_calibration):
    full_calibration.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    place = content
    for name in path[:-1]:
        place = place[name]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    (tmp_path / "c.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SoftDecodeError, match=message):
        Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize("name", ["kappa", "alpha", "beta", "epsilon", "codebook_sha256"])
def test_a_file_without_a_parameter_is_an_error(name, tmp_path, full_calibration):
    full_calibration.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    del content[name]
    (tmp_path / "c.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SoftDecodeError, match=name):
        Calibration.load(tmp_path / "c.json")


def test_a_calibration_of_another_codebook_is_refused_where_one_is_named(tmp_path):
    Calibration(codebook_sha256="abc").save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json", "abc").codebook_sha256 == "abc"
    assert Calibration.load(tmp_path / "calibration.json").codebook_sha256 == "abc"
    with pytest.raises(SoftDecodeError, match="was fitted for another codebook"):
        Calibration.load(tmp_path / "calibration.json", "other")
