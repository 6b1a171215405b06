"""The report's plots, drawn without a display."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softdecode.evaluation.figures import new_figure, save_figure
from softdecode.evaluation.report.entries import BASELINE, CEILING
from softdecode.evaluation.report.metrics import metric_of
from softdecode.evaluation.report.pool import Pool
from softdecode.evaluation.report.quality import stepped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX"  # curves that lie on one another can still be told apart
_HOLLOW: dict[str, Any] = {"markersize": 6, "markerfacecolor": "none"}
_OVER_STEPS = ("frechet", "kernel", "psnr", "ssim", "lpips")
_OVER_BITS = ("psnr", "ssim")


def plot_steps(pool: Pool, path: Path) -> None:
    """Each metric over denoising steps: a curve of each decoder, lines of the VQ decoder and the VAE round trip."""
    entries = pool.overall
    shown = [name for name in _OVER_STEPS if any(entry.row.get(name) is not None for entry in entries)]
    figure = new_figure(4 * len(shown), 3.4)
    for name, axes in zip(shown, _panels(figure, shown, pool, "denoising steps"), strict=True):
        for label, marker in zip(stepped(pool), cycle(_MARKERS)):
            points = sorted(
                (entry.steps, entry.row[name])
                for entry in entries
                if entry.label == label and entry.steps is not None and entry.row.get(name) is not None
            )
            if points:
                axes.plot(*zip(*points, strict=True), marker=marker, label=_text(label), **_HOLLOW)
        for line, style in ((BASELINE, "--"), (CEILING, ":")):
            for entry in entries:
                if entry.name == line and entry.row.get(name) is not None:
                    axes.axhline(entry.row[name], linestyle=style, color="0.4", label=_text(entry.label))
        axes.set_xticks(sorted({entry.steps for entry in entries if entry.steps is not None}))
    figure.axes[0].legend(fontsize="small")
    save_figure(figure, path)


def plot_bits(pool: Pool, steps: int | None, path: Path) -> None:
    """PSNR and SSIM over the bits per pixel of what each row decodes."""
    entries = [entry for entry in pool.at_steps(steps) if entry.row.get("bits_per_pixel")]
    figure = new_figure(5 * len(_OVER_BITS), 3.6)
    for name, axes in zip(_OVER_BITS, _panels(figure, _OVER_BITS, pool, "bits per pixel"), strict=True):
        axes.set_xscale("log")
        for entry, marker in zip(entries, cycle(_MARKERS)):
            if entry.row.get(name) is not None:
                point = [entry.row["bits_per_pixel"]], [entry.row[name]]
                axes.plot(*point, linestyle="", marker=marker, label=_text(entry.label), **_HOLLOW)
    figure.axes[0].legend(fontsize="small")
    save_figure(figure, path)


def has_bits(pool: Pool) -> bool:
    """Whether there is anything for `plot_bits` to show."""
    return any(entry.row.get("bits_per_pixel") and entry.row.get("psnr") is not None for entry in pool.overall)


def plot_latency(label: str, points: Sequence[tuple[int, float]], path: Path) -> None:
    """Latency over that of the VQ decoder, by denoising steps.

    Args:
        label: of the decoder.
        points: (steps, ratio), by steps.
        path: of the picture.
    """
    figure = new_figure(5, 3.6)
    axes = figure.add_subplot()
    axes.plot(*zip(*points, strict=True), marker="o", label=_text(label), **_HOLLOW)
    axes.axhline(1, linestyle="--", color="0.4", label="VQ decoder")
    axes.set(xlabel="denoising steps", title="prompt to picture, over VLM + VQ decoder")
    axes.set_xticks([steps for steps, _ in points])
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def _panels(figure: "Figure", names: Sequence[str], pool: Pool, xlabel: str) -> "Iterator[Axes]":
    """Axes side by side, one for each metric."""
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        axes.set(xlabel=xlabel, title=metric_of(name, pool.protocol).heading)
        axes.grid(alpha=0.3)
        yield axes


def _text(label: str) -> str:
    """A label as it is: dollar signs would begin a formula."""
    return label.replace("$", r"\$")
