"""The numbers of a row: how they are called, and which way is better."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softdecode.errors import SoftDecodeError


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number of a row.

    Attributes:
        title: its column's heading.
        better: which values are; None where a row is not judged by it.
    """

    title: str
    better: str | None = None

    @property
    def heading(self) -> str:
        """The title with an arrow towards better values."""
        return self.title + {"lower": " ↓", "higher": " ↑", None: ""}[self.better]

    @staticmethod
    def check(value: object, what: str) -> None:
        """Refuse what is neither a finite number nor None.

        Raises:
            SoftDecodeError: it is something else.
        """
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise SoftDecodeError(f"{what} is {value!r}; expected a finite number; measure it again")


METRICS = {
    "steps": Metric(title="steps"),
    "bits_per_pixel": Metric(title="bits/pixel"),
    "frechet": Metric(title="Frechet", better="lower"),
    "frechet_over_vq": Metric(title="over VQ", better="lower"),
    "kernel": Metric(title="kernel", better="lower"),
    "psnr": Metric(title="PSNR", better="higher"),
    "ssim": Metric(title="SSIM", better="higher"),
    "lpips": Metric(title="LPIPS", better="lower"),
    "accuracy": Metric(title="accuracy", better="higher"),
}
JUDGED = tuple(name for name, metric in METRICS.items() if metric.better is not None)


def is_fid(protocol: Mapping[str, Any]) -> bool:
    """Whether the result says that its Frechet distance is the published one; no other may be called FID."""
    return _frechet_name(protocol).endswith("FID")


def metric_of(name: str, protocol: Mapping[str, Any]) -> Metric:
    """The metric `name` under a protocol: distances of Inception's features have their published names."""
    if not is_fid(protocol) or name not in ("frechet", "kernel"):
        return METRICS[name]
    return Metric(title=_frechet_name(protocol) if name == "frechet" else "KID", better="lower")


def _frechet_name(protocol: Mapping[str, Any]) -> str:
    return str(protocol.get("metrics", {}).get("frechet_name"))
