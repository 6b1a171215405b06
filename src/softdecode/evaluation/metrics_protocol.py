"""What a result file says of its metrics, so that nobody has to guess what a number means."""

from importlib.metadata import version

from torch import nn

from softdecode.evaluation.extractors import extractor_info
from softdecode.evaluation.lpips import LPIPS_NAME, Lpips
from softdecode.evaluation.metrics import KERNEL_SEED, KERNEL_SUBSET_SIZE, KERNEL_SUBSETS
from softdecode.evaluation.pairs import PSNR_LIMIT, SSIM_SIGMA, SSIM_WINDOW


def metrics_protocol(extractor: nn.Module, lpips: Lpips | None = None, *, task: str) -> dict[str, object]:
    """The settings of every metric, as plain JSON.

    Args:
        extractor: one of `evaluation.extractors`.
        lpips: the network, where LPIPS was asked for.
        task: "reconstruction" or "generation": a Frechet distance by Inception is called rFID or gFID by it.
    """
    info = extractor_info(extractor)
    return {
        "extractor": info.name,
        "extractor_sha256": info.weights_sha256,
        "resize": info.resizer,
        "frechet_name": frechet_name(info.is_fid, task),
        "frechet": "float64, unbiased covariances",
        "kernel": {
            "kernel": f"polynomial (x.y / {info.width} + 1)^3, unbiased MMD^2, float64",
            "subsets": KERNEL_SUBSETS,
            "subset_size": f"min({KERNEL_SUBSET_SIZE}, size of the smaller set)",
            "seed": KERNEL_SEED,
            "whole_sets": "one subset, standard deviation 0, if it holds all of both sets",
        },
        "psnr": f"data range 1.0; of each image over all pixels and channels, at most {PSNR_LIMIT:g} dB; "
        "mean over images",
        "ssim": {
            "data_range": 1.0,
            "window": f"gaussian {SSIM_WINDOW}x{SSIM_WINDOW}, sigma {SSIM_SIGMA}, reflected at the border",
            "k1": 0.01,
            "k2": 0.03,
            "mean": "of each image over all pixels and channels; mean over images",
        },
        "lpips": None if lpips is None else {"network": LPIPS_NAME, "weights_sha256": lpips.weights_sha256},
        "torchmetrics": version("torchmetrics"),
    }


def frechet_name(is_fid: bool, task: str) -> str:
    """What a Frechet distance may be called: FID only with the network that published FIDs use."""
    if not is_fid:
        return "frechet"
    return {"reconstruction": "rFID", "generation": "gFID"}.get(task, "FID")
