"""The paper's Table 1 and Figure 6 from a fitted calibration."""

import os
from typing import Literal, overload

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.figures import new_figure, save_figure
from softdecode.evaluation.tables import table

_STATISTICS = (
    ("top1", "top-1 probability"),
    ("top2", "top-2 probability"),
    ("top1_p95", "top-1, 95th percentile"),
    ("entropy", "normalised entropy"),
    ("entropy_p95", "normalised entropy, 95th percentile"),
    ("tail_entropy", "tail entropy (beyond 8)"),
    ("otsu_threshold", "Otsu threshold (probability)"),
    ("otsu_rank", "Otsu rank"),
    ("head_mass", "head mass"),
    ("code_norm", "length of the expected code"),
)


@overload
def table1(calibration: Calibration, as_text: Literal[True]) -> str: ...
@overload
def table1(calibration: Calibration, as_text: Literal[False] = False) -> list[dict[str, object]]: ...
def table1(calibration: Calibration, as_text: bool = False) -> str | list[dict[str, object]]:
    """Rows in the shape of the paper's Table 1: VLM, encoder raw and calibrated, and what is left between them."""
    target, raw, reached = calibration.target, calibration.raw, calibration.reached
    if target is None or raw is None or reached is None:
        raise SoftDecodeError("this calibration was set by hand: it has no statistics to show")
    rows: list[dict[str, object]] = [
        {
            "statistic": title,
            "VLM": getattr(target, name),
            "encoder": getattr(raw, name),
            "encoder (calibrated)": getattr(reached, name),
            "residual": getattr(reached, name) - getattr(target, name),
        }
        for name, title in _STATISTICS
    ]
    return table(rows, list(rows[0])) if as_text else rows


def profile_plot(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write the top-30 profile of the three distributions as a picture (the paper's Figure 6)."""
    figure = new_figure(6, 4)
    axes = figure.add_subplot()
    for name, label, style in (
        ("target", "VLM", "o-"),
        ("raw", "encoder", "s--"),
        ("reached", "encoder, calibrated", "^-"),
    ):
        statistics = getattr(calibration, name)
        if statistics is not None:
            axes.semilogy(range(1, len(statistics.profile) + 1), statistics.profile, style, label=label, markersize=4)
    axes.set(xlabel="rank", ylabel="mean probability", title="Mean sorted token probabilities")
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)
