"""Figures of matplotlib, without a display and without its global state."""

import os
from typing import TYPE_CHECKING

from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of a size in inches.

    Raises:
        SoftDecodeError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SoftDecodeError("the plot needs matplotlib; install it with `pip install softdecode[eval]`") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Write a figure atomically; the suffix chooses the format."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
