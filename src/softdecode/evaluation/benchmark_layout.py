"""Where a benchmark's own evaluation looks for the pictures of a prompt."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from softdecode.data.benchmarks import Benchmark, BenchmarkPrompt
from softdecode.errors import SoftDecodeError
from softdecode.files import write_text
from softdecode.images import save_image

# Pictures of a prompt: the number that its authors ask for, and the ones that its layout can hold (all where empty).
_SAMPLES: dict[Benchmark, tuple[int, tuple[int, ...]]] = {
    "geneval": (4, ()),
    "dpg": (4, (1, 4)),
    "mjhq": (1, (1,)),
    "parti": (1, ()),
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkLayout:
    """How a benchmark's pictures lie in a folder.

    - geneval: KEY/metadata.jsonl and KEY/samples/0000.png, 0001.png, ... (djghosh13/geneval, evaluate_images.py)
    - dpg: KEY.png, four pictures as a 2×2 grid or one alone (TencentQQGYLab/ELLA, compute_dpg_bench.py)
    - mjhq: CATEGORY/ID.png, as MJHQ-30K itself and `evaluate folders --layout mjhq`
    - parti: KEY-0.png, KEY-1.png, ...; PartiPrompts have no evaluation of their own

    Attributes:
        benchmark: its name.
        samples: pictures of each prompt.

    Raises:
        SoftDecodeError: a number of pictures that the benchmark's layout cannot hold.
    """

    benchmark: Benchmark
    samples: int

    def __post_init__(self) -> None:
        possible = _SAMPLES[self.benchmark][1]
        if self.samples < 1 or (possible and self.samples not in possible):
            expected = " or ".join(map(str, possible)) or "at least 1"
            raise SoftDecodeError(f"{self.benchmark} takes {expected} pictures a prompt, got {self.samples}")

    @staticmethod
    def of(benchmark: Benchmark, samples: int | None = None) -> "BenchmarkLayout":
        """The layout with the authors' number of pictures, where none is given."""
        return BenchmarkLayout(benchmark=benchmark, samples=_SAMPLES[benchmark][0] if samples is None else samples)

    def files(self, prompt: BenchmarkPrompt) -> list[str]:
        """The picture files of a prompt, relative."""
        if self.benchmark == "geneval":
            return [f"{prompt.key}/samples/{sample:04d}.png" for sample in range(self.samples)]
        if self.benchmark == "parti":
            return [f"{prompt.key}-{sample}.png" for sample in range(self.samples)]
        return [f"{prompt.key}.png"]

    def complete(self, folder: Path, prompt: BenchmarkPrompt) -> bool:
        """Whether all of a prompt's pictures are there."""
        return all((folder / file).is_file() for file in self.files(prompt))

    def write(self, folder: Path, prompt: BenchmarkPrompt, pictures: Sequence[Image.Image]) -> None:
        """Write a prompt's `samples` pictures."""
        if self.benchmark == "geneval":
            write_text(folder / prompt.key / "metadata.jsonl", json.dumps(prompt.metadata) + "\n")
        made = [_grid(pictures)] if self.benchmark == "dpg" and self.samples == 4 else pictures
        for file, picture in zip(self.files(prompt), made, strict=True):
            save_image(picture, folder / file)


def _grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """Four pictures as 2×2, in reading order."""
    width, height = pictures[0].size
    grid = Image.new("RGB", (2 * width, 2 * height))
    for place, picture in enumerate(pictures):
        grid.paste(picture, (place % 2 * width, place // 2 * height))
    return grid
