"""What the feature cache saves, and what the mapping costs: one training step, side by side in one process.

    python benchmarks/feature_cache.py --batch-size 64 --rounds 5

The embedded decoders are trained on pictures of noise, three ways in turn: features read from a cache; encoded in the
step (VQ tokenizer, VAE, drafts); and, of a cached step, the mapping of logits alone (LCDM). Ratios are within one run.
"""

import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image

from softdecode.base import load_base
from softdecode.data.picture_sets import SourcePictures
from softdecode.data.sources import CorruptPictures, PictureTransform, open_source
from softdecode.decoder import DistributionDecoder
from softdecode.errors import SoftDecodeError
from softdecode.files import write_json
from softdecode.models import DEFAULT_VLM, EMBEDDED
from softdecode.provenance import provenance
from softdecode.seeds import generator_for
from softdecode.training.decoder import DecoderTask, seen_in_training
from softdecode.training.encoding import FeatureEncoder
from softdecode.training.feature_cache import build_cache
from softdecode.training.features import FeatureRows, Features
from softdecode.training.live_features import StreamedFeatures
from softdecode.vlm.registry import load_vlm

VARIANTS = ("soft", "joint")


@dataclass(frozen=True, kw_only=True)
class FeatureCacheBenchmark:
    """Time training steps of the embedded decoders, soft and joint, on pictures of noise."""

    batch_size: int = 64
    """Pictures in a step, a multiple of 2."""
    rounds: int = 5
    """Timed steps of each kind; one more before them warms up."""
    json: Path | None = None
    """File for the figures, which are printed in any case."""

    def run(self) -> None:
        if self.batch_size < 2 or self.batch_size % 2 or self.rounds < 1:
            raise SoftDecodeError("--batch-size must be a multiple of 2, and --rounds at least 1")
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(Path(folder), self.batch_size, self.rounds)
        print(f"with the cache     {figures['cached_images_per_second']:8.1f} images/s")
        print(f"without            {figures['live_images_per_second']:8.1f} images/s")
        print(f"cache over none    {figures['speedup']:8.2f}")
        print(f"LCDM in a step     {figures['lcdm_share']:8.1%}")
        if self.json is not None:
            write_json(self.json, {"command": "benchmark feature cache", **figures, "provenance": provenance()})


def measure(folder: Path, batch_size: int, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, in seconds and images per second."""
    vlm = load_vlm(DEFAULT_VLM)
    base = load_base(EMBEDDED / "base")
    decoders = {name: DistributionDecoder.from_pretrained(EMBEDDED / "decoders" / name, base=base) for name in VARIANTS}
    base.transformer.requires_grad_(True)
    encoder = FeatureEncoder(tokenizer=vlm.tokenizer, vae=base.vae)
    source = open_source(
        str(pictures(folder, 2 * batch_size, vlm.tokenizer.image_size)),
        transform=PictureTransform(vlm.tokenizer.image_size),
        cache=folder / "digests",
    )
    corrupt = CorruptPictures(folder / "unusable.jsonl")
    cache = build_cache(folder / "cache", SourcePictures(source, corrupt), encoder)
    assert cache is not None
    live = StreamedFeatures(lambda state: source.stream(corrupt, seed=0, state=state), encoder)
    kinds: dict[str, FeatureRows] = {"cached": cache, "live": live}
    tasks = {kind: DecoderTask(decoders, rows).train() for kind, rows in kinds.items()}
    seconds: dict[str, list[float]] = {"cached": [], "live": [], "lcdm": []}
    for step in range(-1, rounds):  # the first round warms up
        for kind, task in tasks.items():
            taken = timed_step(task, step, batch_size)
            if step >= 0:
                seconds[kind].append(taken)
        if step >= 0:
            seconds["lcdm"].append(timed_mapping(tasks["cached"], step, batch_size))
    median = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {
        "batch_size": batch_size,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "cached_images_per_second": batch_size / median["cached"],
        "live_images_per_second": batch_size / median["live"],
        "speedup": median["live"] / median["cached"],
        "lcdm_share": median["lcdm"] / median["cached"],
    }


def pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """A folder of PNG files of noise."""
    (folder / "pictures").mkdir()
    for place in range(count):
        pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator_for("picture", place))
        Image.fromarray(pixels.numpy()).save(folder / "pictures" / f"{place:05d}.png")
    return folder / "pictures"


def chosen(task: DecoderTask, step: int, batch_size: int) -> tuple[torch.Tensor, list[torch.Generator]]:
    generators = [generator_for("sample", step, place) for place in range(batch_size)]
    return (torch.arange(batch_size) + step * batch_size) % min(len(task.features), 2 * batch_size), generators


def timed_step(task: DecoderTask, step: int, batch_size: int) -> float:
    """Seconds of a batch, its loss and its gradients."""
    indices, generators = chosen(task, step, batch_size)
    began = time.perf_counter()
    batch = task.batch(indices, generators)
    with torch.autocast("cpu", torch.bfloat16):
        loss = task(batch, step)["loss"]
    loss.backward()
    task.zero_grad()
    return time.perf_counter() - began


def timed_mapping(task: DecoderTask, step: int, batch_size: int) -> float:
    """Seconds of the mapping in such a step: every decoder's share."""
    indices, generators = chosen(task, step, batch_size)
    features: Features = task.features.rows(indices, generators)
    count = len(task.decoders)
    began = time.perf_counter()
    for place, decoder in enumerate(task.decoders.values()):
        assert isinstance(decoder, DistributionDecoder)
        seen_in_training(decoder, features.rows(torch.arange(place, batch_size, count)))
    return time.perf_counter() - began


if __name__ == "__main__":
    tyro.cli(FeatureCacheBenchmark).run()
