"""PSNR and SSIM of image pairs, against their formulas."""

import numpy as np
import pytest
import torch

from softdecode.errors import SoftDecodeError

pytest.importorskip("softdecode.evaluation.torchmetrics")

from softdecode.evaluation.pairs import psnr, ssim


def random_images(count, seed, size=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_psnr_of_a_known_error():
    references = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    images = torch.stack([references[0] + 5, references[1] - 51])
    expected = [20 * np.log10(255 / 5), 20 * np.log10(255 / 51)]
    assert psnr(images, references).tolist() == pytest.approx(expected, abs=1e-3)


def test_psnr_of_identical_images_counts_100():
    images = random_images(70, seed=10)
    others = images.clone()
    assert (psnr(images, others) == 100).all()
    others[:35] = 255 - others[:35]
    values = psnr(images, others)
    assert (values[:35] < 100).all()
    assert (values[35:] == 100).all()
    assert torch.equal(values[:35], psnr(images[:35], others[:35]))


def test_ssim_of_identical_images_is_one():
    images = random_images(3, seed=11)
    assert ssim(images, images).tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_ssim_of_flat_images():
    # No variance: what remains is the luminance term (2ab + c1) / (a^2 + b^2 + c1).
    images, references = torch.full((1, 3, 16, 16), 51).byte(), torch.full((1, 3, 16, 16), 102).byte()
    assert ssim(images, references).item() == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.04 + 0.16 + 1e-4), abs=1e-4)


def test_ssim_against_numpy():
    images, references = random_images(2, seed=12), random_images(2, seed=13)
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def local_mean(values):
        padded = np.pad(values, ((0, 0), (0, 0), (5, 5), (5, 5)), mode="reflect")
        patches = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), axis=(2, 3))
        return (patches * window).sum((-1, -2))

    x, y = images.numpy() / 255, references.numpy() / 255
    mx, my = local_mean(x), local_mean(y)
    vx, vy, cov = local_mean(x * x) - mx**2, local_mean(y * y) - my**2, local_mean(x * y) - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert ssim(images, references).tolist() == pytest.approx(expected.mean((1, 2, 3)).tolist(), abs=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    "bad",
    [
        random_images(2, seed=16),
        random_images(3, seed=16, size=17),
        random_images(3, seed=16).float(),
        random_images(3, seed=16)[:, :1],
        random_images(3, seed=16)[:0],
    ],
)
def test_paired_metrics_refuse_bad_images(metric, bad):
    good = random_images(3, seed=17)
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(SoftDecodeError, match="expected"):
            metric(*pair)


def test_ssim_refuses_images_smaller_than_the_window():
    images = random_images(1, seed=18, size=10)
    with pytest.raises(SoftDecodeError, match="at least 11"):
        ssim(images, images)
