"""Metrics against formulas and against independent numpy implementations."""

import numpy as np
import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.metrics import (
    FeatureStatistics,
    compare_sets,
    frechet_distance,
    frechet_to_statistics,
    image_features,
    kernel_distance,
)

# Columns of mean 0, orthogonal, of sum of squares 8: their sample covariance is 8/7 times the identity.
ORTHOGONAL = torch.tensor(
    [[1 if bin(row & column).count("1") % 2 == 0 else -1 for column in (1, 2, 4, 7)] for row in range(8)]
).double()


def random_features(count, width, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mixing * scale + shift


def random_images(count, seed, size=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def matrix_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def numpy_frechet(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    root_a = matrix_root(cov_a)
    cross = matrix_root(root_a @ cov_b @ root_a)
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(cross)


def numpy_kernel_distance(a, b):
    a, b = a.double().numpy(), b.double().numpy()

    def kernel(x, y):
        return (x @ y / len(x) + 1) ** 3

    within_a = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    within_b = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    return within_a + within_b - 2 * np.mean([kernel(x, y) for x in a for y in b])


def test_frechet_of_diagonal_gaussians():
    deviations_a, deviations_b = torch.tensor([1.0, 2.0, 3.0, 0.5]), torch.tensor([2.0, 2.0, 1.0, 0.0])
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5])
    expected = shift.square().sum() + 8 / 7 * (deviations_a - deviations_b).square().sum()
    found = frechet_distance(ORTHOGONAL * deviations_a, ORTHOGONAL * deviations_b + shift)
    assert found == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("width", [1, 6])
def test_frechet_against_numpy(width):
    a, b = random_features(50, width, seed=1), random_features(40, width, seed=2, scale=1.5, shift=0.3)
    assert frechet_distance(a, b) == pytest.approx(numpy_frechet(a, b), rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-8)


def test_frechet_with_fewer_images_than_features():
    a, b = random_features(20, 32, seed=1), random_features(24, 32, seed=2)
    assert frechet_distance(a, b) == pytest.approx(numpy_frechet(a, b), abs=1e-4)


@pytest.mark.parametrize("count", [10, 100])
def test_frechet_of_equal_sets_is_zero(count):
    features = random_features(count, 16, seed=3)
    assert frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-4)


def test_kernel_distance_of_whole_sets_against_numpy():
    a, b = random_features(30, 5, seed=4), random_features(30, 5, seed=5, shift=0.5)
    mean, std = kernel_distance(a, b)
    assert mean == pytest.approx(numpy_kernel_distance(a, b), rel=1e-9)
    assert std == 0


def test_kernel_distance_over_subsets():
    a, b = random_features(12, 3, seed=6), random_features(60, 3, seed=6, shift=1.0)
    mean, std = kernel_distance(a, b)
    assert std > 0
    assert mean == pytest.approx(numpy_kernel_distance(a, b), abs=4 * std / 10)


def test_kernel_distance_of_large_sets():
    a, b = random_features(1200, 2, seed=7), random_features(1100, 2, seed=8, shift=1.0)
    mean, std = kernel_distance(a, b)
    assert 0 < std < 0.1 * mean


def test_kernel_distance_is_deterministic_and_leaves_the_random_state():
    a, b = random_features(12, 3, seed=6), random_features(20, 3, seed=7)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = kernel_distance(a, b)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert kernel_distance(a, b) == first


def test_compare_sets_gives_both_distances(recwarn):
    a, b = random_features(20, 4, seed=8), random_features(20, 4, seed=9)
    score = compare_sets(a, b)
    assert score.frechet == frechet_distance(a, b)
    assert (score.kernel, score.kernel_std) == kernel_distance(a, b)
    assert not recwarn.list


def test_image_features_are_batched_in_order():
    class ChannelMeans(torch.nn.Module):
        def forward(self, images):
            self.largest = max(len(images), getattr(self, "largest", 0))
            return images.float().mean(dim=(2, 3))

    images, extractor = random_images(7, seed=14), ChannelMeans()
    features = image_features(images, extractor, batch_size=3)
    assert torch.equal(features, images.float().mean(dim=(2, 3)))
    assert extractor.largest == 3
    assert not features.is_inference()


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, compare_sets])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 4), "has 1 images"),
        (torch.zeros(5, 3), "expected equal widths"),
        (torch.zeros(5, 4).fill_(float("nan")), "not finite"),
        (torch.zeros(5, 4).fill_(float("inf")), "not finite"),
        (torch.zeros(5, 4, 1), "expected floats"),
        (torch.zeros(5, 4, dtype=torch.long), "expected floats"),
    ],
)
def test_distances_refuse_bad_features(distance, bad, message):
    good = random_features(5, 4, seed=15)
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(SoftDecodeError, match=message) as caught:
            distance(*pair)
        assert "\n" not in str(caught.value)


def test_image_features_refuse_bad_arguments():
    with pytest.raises(SoftDecodeError, match="at least 1"):
        image_features(random_images(2, seed=19), torch.nn.Identity(), batch_size=0)
    with pytest.raises(SoftDecodeError, match=r"expected torch\.uint8"):
        image_features(random_images(2, seed=19).float(), torch.nn.Identity())


@pytest.mark.parametrize(("count", "width"), [(50, 7), (5, 20)])
def test_frechet_to_statistics_is_that_to_the_pictures_that_they_are_of(count, width):
    images, references = random_features(count, width, 1), random_features(70, width, 2, scale=1.5, shift=0.3)
    exact = references.double().numpy()
    statistics = FeatureStatistics(
        mean=torch.from_numpy(exact.mean(0)), covariance=torch.from_numpy(np.cov(exact, rowvar=False))
    )
    assert frechet_to_statistics(images, statistics) == pytest.approx(frechet_distance(images, references), rel=1e-6)


def test_statistics_of_another_width_are_refused():
    statistics = FeatureStatistics(mean=torch.zeros(4).double(), covariance=torch.eye(4).double())
    with pytest.raises(SoftDecodeError, match="3 and 4 wide"):
        frechet_to_statistics(random_features(9, 3, 1), statistics)
