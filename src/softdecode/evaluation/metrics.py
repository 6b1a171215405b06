"""How close two image sets are: Frechet and kernel distance, by torchmetrics."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractor import check_images
from softdecode.evaluation.torchmetrics import FrechetInceptionDistance, KernelInceptionDistance

KERNEL_SUBSETS = 100
KERNEL_SUBSET_SIZE = 1000
KERNEL_SEED = 0

# torchmetrics would have every process of a launcher compute, and would wait for them.
_ALONE: dict[str, Any] = {"sync_on_compute": False}


@dataclass(frozen=True, kw_only=True)
class ImageSetScore:
    """How far an image set lies from a reference set; lower is closer.

    Attributes:
        frechet: `frechet_distance` of the two sets.
        kernel: mean of `kernel_distance` over subsets.
        kernel_std: standard deviation over subsets; 0 if one subset holds all of both sets.
    """

    frechet: float
    kernel: float
    kernel_std: float


@dataclass(frozen=True, kw_only=True)
class FeatureStatistics:
    """What a Frechet distance knows of a set of pictures, where the pictures themselves are not at hand.

    Attributes:
        mean: [D] float64.
        covariance: [D, D] float64, unbiased.
    """

    mean: Tensor
    covariance: Tensor


def image_features(images: Tensor, extractor: nn.Module, batch_size: int = 16) -> Tensor:
    """Features of an image set, to compute once and compare often.

    Args:
        images: [M, 3, H, W] uint8.
        extractor: turns [B, 3, H, W] uint8 into [B, D], such as `EfficientNetLite0`, in evaluation mode.
        batch_size: pictures at once. Features do not depend on it beyond rounding.

    Returns:
        [M, D] on the CPU, in the dtype of the extractor (D = 1280 and float32 with `EfficientNetLite0`).

    Raises:
        SoftDecodeError: `images` has another shape or dtype, or is empty, or `batch_size` is less than 1.
    """
    check_images(images)
    if batch_size < 1:
        raise SoftDecodeError(f"batch size is {batch_size}, expected at least 1")
    with torch.inference_mode():
        features = [extractor(batch).cpu() for batch in images.split(batch_size)]
    return torch.cat(features)


def compare_sets(
    features: Tensor, reference_features: Tensor, statistics: FeatureStatistics | None = None
) -> ImageSetScore:
    """Frechet and kernel distance between two image sets, given as features [M, D] and [N, D].

    Where the references are a part of a set of which the statistics are known, the Frechet distance is to these.

    Raises:
        SoftDecodeError: fewer than 2 images, differing widths, or values that are not finite.
    """
    kernel, kernel_std = kernel_distance(features, reference_features)
    if statistics is None:
        frechet = frechet_distance(features, reference_features)
    else:
        frechet = frechet_to_statistics(features, statistics)
    return ImageSetScore(frechet=frechet, kernel=kernel, kernel_std=kernel_std)


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, 1706.08500).

    It is biased upwards for small sets, strongly below D images, so compare only values from equally large sets.
    Rounding leaves equal sets within about 1e-4 of 0, on either side.

    Args:
        features_a: [M, D], M at least 2.
        features_b: [N, D], N at least 2.

    Returns:
        The distance, 0 or more but for rounding. It is symmetric.

    Raises:
        SoftDecodeError: fewer than 2 images, differing widths, or values that are not finite.
    """
    _check_features(features_a, features_b)
    metric = FrechetInceptionDistance(_GivenFeatures(features_a.shape[1]), **_ALONE).set_dtype(torch.float64)
    metric.update(_exact(features_a), real=False)
    metric.update(_exact(features_b), real=True)
    return metric.compute().item()


def frechet_to_statistics(features: Tensor, reference: FeatureStatistics) -> float:
    """`frechet_distance` of features [M, D] to a set of which only the statistics were published.

    Raises:
        SoftDecodeError: fewer than 2 images, another width, or values that are not finite.
    """
    _check_features(features, reference.mean[None].expand(2, -1))
    exact = _exact(features)
    mean, covariance = exact.mean(0), exact.T.cov()
    # The trace of the root of a product of covariances, from its eigenvalues, which are not negative but for rounding.
    root = torch.linalg.eigvals(covariance @ reference.covariance).sqrt().real.sum()
    distance = (mean - reference.mean).square().sum() + covariance.trace() + reference.covariance.trace() - 2 * root
    return distance.item()


def kernel_distance(features_a: Tensor, features_b: Tensor) -> tuple[float, float]:
    """Squared maximum mean discrepancy of two sets of features (Binkowski et al. 2018, 1801.01401).

    The kernel is (x.y / D + 1)^3 and the estimate unbiased, so equal distributions give values around 0 of either
    sign. 100 random subsets of min(1000, M, N) images are drawn from a fixed seed; the global random state is left
    alone. Where one subset holds all of both sets, it is the only one and the standard deviation is 0.

    Args:
        features_a: [M, D], M at least 2.
        features_b: [N, D], N at least 2.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        SoftDecodeError: fewer than 2 images, differing widths, or values that are not finite.
    """
    _check_features(features_a, features_b)
    size = min(KERNEL_SUBSET_SIZE, len(features_a), len(features_b))
    subsets = 1 if len(features_a) == len(features_b) == size else KERNEL_SUBSETS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`")  # it keeps all features: meant
        metric = KernelInceptionDistance(
            _GivenFeatures(features_a.shape[1]), subsets=subsets, subset_size=size, **_ALONE
        )
    metric.update(_exact(features_a), real=False)
    metric.update(_exact(features_b), real=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(KERNEL_SEED)  # torch.manual_seed would reseed the GPUs too
        mean, std = metric.compute()
    return mean.item(), std.item()


class _GivenFeatures(nn.Module):
    """A feature extractor for torchmetrics that is handed features and returns them."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _exact(features: Tensor) -> Tensor:
    return features.detach().cpu().double()


def _check_features(features_a: Tensor, features_b: Tensor) -> None:
    for features in (features_a, features_b):
        if features.dim() != 2 or not features.is_floating_point():
            raise SoftDecodeError(f"features are {features.dtype} {list(features.shape)}, expected floats [M, D]")
        if len(features) < 2:
            raise SoftDecodeError(f"an image set has {len(features)} images, a distance needs at least 2")
        if not features.isfinite().all():
            raise SoftDecodeError("features contain values that are not finite; check the images and the extractor")
    if features_a.shape[1] != features_b.shape[1]:
        raise SoftDecodeError(
            f"features are {features_a.shape[1]} and {features_b.shape[1]} wide, expected equal widths"
        )
