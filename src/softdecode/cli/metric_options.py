"""Options of the metrics, for all commands that measure pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn

from softdecode.device import resolve_device
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractors import ExtractorName, load_extractor
from softdecode.evaluation.lpips import Lpips


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """Which networks measure."""

    extractor: ExtractorName = "efficientnet-lite0"
    """Network behind Frechet and kernel distance; inception-v3 is that of published FIDs (softdecode[fid])."""
    extractor_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of inception-v3 in torch-fidelity's format; fetched where absent."""
    lpips: bool = False
    """Measure LPIPS (VGG16), too, where pictures come in pairs."""
    lpips_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """VGG16 for ImageNet as torchvision publishes it; fetched where absent."""

    def load(self, device: str) -> tuple[nn.Module, Lpips | None]:
        """The extractor, and LPIPS where it is asked for, on a device."""
        where = resolve_device(device)
        if self.lpips_weights is not None and not self.lpips:
            raise SoftDecodeError("--lpips-weights is given without --lpips")
        extractor = load_extractor(self.extractor, self.extractor_weights).to(where)
        return extractor, Lpips(self.lpips_weights).to(where) if self.lpips else None
