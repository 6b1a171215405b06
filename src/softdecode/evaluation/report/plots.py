"""The report's plots, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from softdecode.evaluation.figures import new_figure, save_figure
from softdecode.evaluation.report.metrics import metric_of
from softdecode.evaluation.report.pool import BASELINE, CEILING, Pool
from softdecode.evaluation.report.quality import stepped

_OVER_STEPS = ("frechet", "kernel", "psnr", "ssim", "lpips")
_OVER_BITS = ("psnr", "ssim")


def plot_steps(pool: Pool, path: Path) -> None:
    """Each metric over denoising steps: a curve of each decoder, lines of the VQ decoder and the VAE round trip."""
    entries = pool.overall
    shown = [name for name in _OVER_STEPS if any(entry.row.get(name) is not None for entry in entries)]
    figure = new_figure(4 * len(shown), 3.4)
    for place, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        for label in stepped(pool):
            points = sorted(
                (entry.steps, entry.row[name])
                for entry in entries
                if entry.label == label and entry.steps is not None and entry.row.get(name) is not None
            )
            axes.plot(*zip(*points, strict=True), "o-", label=label, markersize=4)
        for line, style in ((BASELINE, "--"), (CEILING, ":")):
            for entry in entries:
                if entry.name == line and entry.row.get(name) is not None:
                    axes.axhline(entry.row[name], linestyle=style, color="0.4", label=entry.label)
        axes.set(xlabel="denoising steps", title=metric_of(name, pool.protocol).heading)
        axes.grid(alpha=0.3)
        if place == 0:
            axes.legend(fontsize="small")
    save_figure(figure, path)


def plot_bits(pool: Pool, steps: int | None, path: Path) -> None:
    """PSNR and SSIM over the bits per pixel of what each row decodes."""
    entries = [entry for entry in pool.at_steps(steps) if entry.row.get("bits_per_pixel")]
    figure = new_figure(5 * len(_OVER_BITS), 3.6)
    for place, name in enumerate(_OVER_BITS):
        axes = figure.add_subplot(1, len(_OVER_BITS), place + 1)
        for entry in entries:
            if entry.row.get(name) is not None:
                axes.semilogx(entry.row["bits_per_pixel"], entry.row[name], "o", label=entry.label, markersize=5)
        axes.set(xlabel="bits per pixel", title=metric_of(name, pool.protocol).heading)
        axes.grid(alpha=0.3)
        if place == 0:
            axes.legend(fontsize="small")
    save_figure(figure, path)


def has_bits(pool: Pool) -> bool:
    """Whether there is anything for `plot_bits` to show."""
    return any(entry.row.get("bits_per_pixel") and entry.row.get("psnr") is not None for entry in pool.overall)


def plot_latency(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Latency over that of the VQ decoder, by denoising steps.

    Args:
        curves: label to (steps, ratio) in the order of steps.
        path: of the picture.
    """
    figure = new_figure(5, 3.6)
    axes = figure.add_subplot()
    for label, points in curves.items():
        axes.plot(*zip(*points, strict=True), "o-", label=label, markersize=4)
    axes.axhline(1, linestyle="--", color="0.4", label="VQ decoder")
    axes.set(xlabel="denoising steps", title="prompt to picture, over VLM + VQ decoder")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    save_figure(figure, path)
