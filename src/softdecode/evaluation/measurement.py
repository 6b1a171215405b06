"""Measuring rows picture by picture: nothing grows with the number of pictures but features and a few numbers.

Batch after batch is read once, decoded in every way and measured at once. Of each picture and row there remain the
features (8 KB with Inception), PSNR, SSIM and LPIPS, and the pictures themselves where a contact sheet shows them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.contenders import Contender
from softdecode.evaluation.lpips import Lpips
from softdecode.evaluation.metrics import compare_sets, image_features
from softdecode.evaluation.pairs import psnr, ssim
from softdecode.evaluation.pictures import Pictures
from softdecode.evaluation.processes import ALONE, Processes
from softdecode.evaluation.rows import Row
from softdecode.evaluation.sinks import PictureSink

T = TypeVar("T")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Task(Generic[T]):
    """What a protocol measures.

    Attributes:
        contenders: the rows.
        prepare: the pictures' places, and the originals where paired, to what the contenders decode.
        count: how many pictures each contender makes.
        references: the pictures that the sets are compared with.
        paired: whether picture i of a contender is one of reference i (then PSNR, SSIM and LPIPS are taken).
    """

    contenders: "Sequence[Contender[T]]"
    prepare: Callable[[slice, Tensor | None], T]
    count: int
    references: Pictures
    paired: bool


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


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured; on processes other than rank 0 there is nothing in it.

    Attributes:
        rows: in the order of the contenders.
        images: each row's kept pictures [K, 3, H, W] uint8, by `Contender.key`.
        originals: the kept references, where paired.
    """

    rows: list[Row]
    images: dict[str, Tensor]
    originals: Tensor | None


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


@torch.no_grad()
def measure(task: Task[T], measuring: Measuring) -> Measurement:
    """Decode all pictures in every way, and measure.

    Raises:
        SoftDecodeError: what a contender makes cannot be measured, or not written.
    """
    references = Harvest()
    harvests = {contender.key: Harvest() for contender in task.contenders}
    starts = measuring.processes.share(task.count, measuring.batch_size)
    total = sum(min(measuring.batch_size, task.count - start) for start in starts) * len(harvests)
    done = 0
    for start in starts:
        part = slice(start, min(start + measuring.batch_size, task.count))
        originals = task.references[part] if task.paired else None
        if originals is not None:
            references.take(originals, None, measuring)
            _keep(references, originals, part, measuring, "original")
        batch = task.prepare(part, originals)
        for contender in task.contenders:
            harvest = harvests[contender.key]
            began = time.perf_counter()
            images = contender.decode(batch)
            harvest.seconds += time.perf_counter() - began
            harvest.take(images, originals, measuring)
            _keep(harvest, images, part, measuring, contender.key)
            done += len(images)
            if measuring.on_progress is not None:
                measuring.on_progress("pictures", done, total)
    if not task.paired:
        references.features = set_features(task.references, measuring)
    for sink in measuring.sinks:
        sink.finish(measuring.processes)
    return _conclude(task, measuring, references, harvests)


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


def _keep(harvest: Harvest, images: Tensor, part: slice, measuring: Measuring, key: str) -> None:
    """Keep the pictures that a contact sheet shows, and hand all to the sinks."""
    shown = [place - part.start for place in measuring.keep if part.start <= place < part.stop]
    harvest.kept.append(images[shown])
    for sink in measuring.sinks:
        sink.write(key, part.start, images)


def _conclude(task: Task[T], measuring: Measuring, references: Harvest, harvests: dict[str, Harvest]) -> Measurement:
    """Bring all processes' harvests to rank 0, row by row, and make rows of them there."""
    processes = measuring.processes
    reference = Harvest.joined(processes.gather(references))
    rows, images = [], {}
    for contender in task.contenders:
        harvest = Harvest.joined(processes.gather(harvests.pop(contender.key)))
        if not processes.main:
            continue
        distance = compare_sets(torch.cat(harvest.features), torch.cat(reference.features))
        images[contender.key] = torch.cat(harvest.kept)
        rows.append(
            Row(
                name=contender.name,
                condition=contender.condition,
                steps=contender.steps,
                bits_per_pixel=contender.bits,
                frechet=distance.frechet,
                kernel=distance.kernel,
                kernel_std=distance.kernel_std,
                psnr=harvest.mean("psnr"),
                ssim=harvest.mean("ssim"),
                lpips=harvest.mean("lpips"),
                seconds=harvest.seconds,
            )
        )
    originals = torch.cat(reference.kept) if task.paired and processes.main else None
    return Measurement(rows=rows, images=images, originals=originals)
