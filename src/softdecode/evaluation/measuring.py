"""How pictures are measured, and what remains of them: features and a few numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.lpips import Lpips
from softdecode.evaluation.metrics import image_features
from softdecode.evaluation.pairs import psnr, ssim
from softdecode.evaluation.pictures import Pictures
from softdecode.evaluation.processes import ALONE, Processes
from softdecode.evaluation.sinks import PictureSink
from softdecode.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How it is measured; nothing here changes the numbers beside the networks.

    Attributes:
        extractor: image features, see `evaluation.extractors`.
        lpips: the network, where LPIPS is asked for.
        batch_size: pictures decoded at a time.
        keep: places of the pictures to keep, for a contact sheet, ascending.
        sinks: where else each row's pictures go.
        processes: those that share the work.
        on_progress: called with (stage, done, total) of this process.
    """

    extractor: nn.Module
    lpips: Lpips | None = None
    batch_size: int = 64
    keep: Sequence[int] = ()
    sinks: Sequence[PictureSink] = ()
    processes: Processes = ALONE
    on_progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SoftDecodeError(f"batch size is {self.batch_size}, expected at least 1")


@dataclass(kw_only=True)
class Harvest:
    """What remains of one row's pictures, or of the references, on one process."""

    features: list[Tensor] = field(default_factory=list)
    numbers: dict[str, list[Tensor]] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    def take(self, images: Tensor, originals: Tensor | None, measuring: Measuring) -> None:
        """Measure a batch [b, 3, H, W] uint8, and its pairs where there are originals."""
        self.features.append(image_features(images, measuring.extractor))
        if originals is None:
            return
        numbers = {"psnr": psnr(images, originals), "ssim": ssim(images, originals)}
        if measuring.lpips is not None:
            numbers["lpips"] = measuring.lpips(images, originals).double().cpu()
        for name, values in numbers.items():
            self.numbers.setdefault(name, []).append(values)

    def mean(self, name: str, places: Sequence[int] | None = None) -> float | None:
        """The mean of a number over pictures, or over those of some places; None where it was not taken."""
        if name not in self.numbers:
            return None
        values = torch.cat(self.numbers[name])
        return (values if places is None else values[list(places)]).mean().item()

    @staticmethod
    def joined(parts: "Sequence[Harvest]") -> "Harvest":
        """The harvest of several processes, in the order of the pictures."""
        names = {name: None for part in parts for name in part.numbers}
        return Harvest(
            features=[values for part in parts for values in part.features],
            numbers={name: [values for part in parts for values in part.numbers.get(name, [])] for name in names},
            kept=[images for part in parts for images in part.kept],
            seconds=sum(part.seconds for part in parts),
        )


def set_features(pictures: Pictures, measuring: Measuring) -> list[Tensor]:
    """Features of this process's share of a picture set, a tensor [b, D] for each batch."""
    starts = measuring.processes.share(len(pictures), measuring.batch_size)
    features = []
    for start in starts:
        stop = min(start + measuring.batch_size, len(pictures))
        features.append(image_features(pictures[start:stop], measuring.extractor))
        if measuring.on_progress is not None:
            measuring.on_progress("references", stop - starts.start, min(starts.stop, len(pictures)) - starts.start)
    return features
