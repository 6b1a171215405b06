"""Measuring rows picture by picture: nothing grows with the number of pictures but features and a few numbers.

Batch after batch is read once, decoded in every way and measured at once. Of each picture and row there remain the
features (8 KB with Inception), PSNR, SSIM and LPIPS, and the pictures themselves where a contact sheet shows them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from softdecode.evaluation.contenders import Contender
from softdecode.evaluation.measuring import Harvest, Measuring, set_features
from softdecode.evaluation.metrics import compare_sets
from softdecode.evaluation.pictures import Pictures
from softdecode.evaluation.rows import Row

T = TypeVar("T")


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
