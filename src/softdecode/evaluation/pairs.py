"""How close an image is to the one it should be: PSNR and SSIM by torchmetrics, a value for each pair."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractor import check_images
from softdecode.evaluation.torchmetrics import peak_signal_noise_ratio, structural_similarity_index_measure

PSNR_LIMIT = 100.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5

_PAIRS_AT_ONCE = 64


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / MSE) of each image with values in [0, 1].

    It is at most 100 dB: that stands for the infinite ratio of identical images.

    Args:
        images: [M, 3, H, W] uint8.
        references: the same shape, uint8; image by image what `images` should be.

    Returns:
        [M] float64, in [0, 100] dB.

    Raises:
        SoftDecodeError: shapes that differ or are not [M, 3, H, W], another dtype, or no images.
    """

    def ratios(batch: Tensor, targets: Tensor) -> Tensor:
        values = peak_signal_noise_ratio(batch, targets, data_range=1.0, reduction="none", dim=(1, 2, 3))
        return values.clamp(max=PSNR_LIMIT)

    check_pairs(images, references)
    return _of_each_pair(ratios, images, references)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each image, with values in [0, 1] and data range 1.

    The window is an 11x11 gaussian of sigma 1.5, on each colour channel. As torchmetrics does, pictures are
    reflected at the border and every pixel counts; implementations that leave the border out differ slightly.

    Args:
        images: [M, 3, H, W] uint8, H and W at least 11.
        references: the same shape, uint8; image by image what `images` should be.

    Returns:
        [M] float64, in [-1, 1]; 1 means identical.

    Raises:
        SoftDecodeError: shapes that differ or are not [M, 3, H, W], another dtype, no images, or images too small.
    """

    def similarities(batch: Tensor, targets: Tensor) -> Tensor:
        values = structural_similarity_index_measure(
            batch, targets, sigma=SSIM_SIGMA, kernel_size=SSIM_WINDOW, reduction="none", data_range=1.0
        )
        return cast(Tensor, values)

    check_pairs(images, references)
    if min(images.shape[2:]) < SSIM_WINDOW:
        raise SoftDecodeError(f"images are {list(images.shape[2:])} pixels, SSIM needs at least {SSIM_WINDOW} a side")
    return _of_each_pair(similarities, images, references)


def check_pairs(images: Tensor, references: Tensor) -> None:
    """Refuse batches that are not pairs of pictures, both [M, 3, H, W] uint8.

    Raises:
        SoftDecodeError: they are not.
    """
    check_images(images)
    check_images(references)
    if images.shape != references.shape:
        raise SoftDecodeError(
            f"images are {list(images.shape)} but references {list(references.shape)}, expected equal"
        )


def _of_each_pair(metric: Callable[[Tensor, Tensor], Tensor], images: Tensor, references: Tensor) -> Tensor:
    """A metric that gives one value for each pair, on values in [0, 1], some pairs at a time."""
    batches = zip(images.split(_PAIRS_AT_ONCE), references.split(_PAIRS_AT_ONCE), strict=True)
    values = [metric(batch.float() / 255, targets.float() / 255) for batch, targets in batches]
    return torch.cat([value.reshape(-1).double() for value in values])
