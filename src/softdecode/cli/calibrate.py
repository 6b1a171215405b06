"""`softdecode calibrate`: the VLM's statistics, the fit, Table 1 and the profile plot."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from softdecode.calibration import Calibration, fit_calibration, proxy_logits
from softdecode.cli.options import ModelOptions, SamplingOptions, check_positive, parse
from softdecode.data.emoji import load_emoji
from softdecode.data.prompts import held_in_prompts, read_prompts
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.calibration_report import profile_plot, table1
from softdecode.files import staged_files, tensor_sha256, write_json, write_text
from softdecode.images import read_image, to_unit_range
from softdecode.mapping import log_probabilities
from softdecode.progress import progress_bars
from softdecode.provenance import provenance
from softdecode.statistics import StatisticsAccumulator
from softdecode.training.jobs import DEFAULT_DATA
from softdecode.vlm.base import ImageTokenModel

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Fit the encoder's proxy logits to the VLM's statistics (spec section 2).

    Draws images with the VLM, encodes real ones with its tokenizer, and writes calibration.json, table1.md,
    profile.png and result.json. Without --prompts and --images the emoji data is used.
    """

    output: Path = Path("outputs/calibrate")
    """Folder for the results."""
    prompts: Path | None = None
    """File of prompts, a line each, or JSON lines with a field "prompt"."""
    images: Path | None = None
    """Folder of pictures to encode; resized and centre-cropped."""
    data: Path = DEFAULT_DATA
    """Folder of the emoji data."""
    draws: int = 100
    """Images to draw (paper: 100), >= 1."""
    encodes: int = 512
    """Pictures to encode at most, >= 1."""
    seed: int = 0
    """Seed of the first draw; the others count on from it."""
    batch_size: int = 25
    """Images drawn or encoded at a time, >= 1."""
    json: bool = False
    """Print result.json instead of the table."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)

    def run(self) -> None:
        check_positive(draws=self.draws, encodes=self.encodes, batch_size=self.batch_size)
        if (self.prompts is None) != (self.images is None):
            raise SoftDecodeError("--prompts and --images go together; without both the emoji data is used")
        vlm = self.models.load_vlm()
        prompts, pictures = self._material(vlm)
        sampling = self.sampling.over(vlm.defaults)
        codebook = vlm.tokenizer.codebook
        target = StatisticsAccumulator(codebook)
        with progress_bars(self.json) as bars:
            for start in range(0, len(prompts), self.batch_size):
                batch = prompts[start : start + self.batch_size]
                seeds = range(self.seed + start, self.seed + start + len(batch))
                vlm.sample(
                    batch,
                    seeds=seeds,
                    sampling=sampling,
                    on_logits=lambda logits: target.add(log_probabilities(logits)),
                )
                bars("VLM images", start + len(batch), len(prompts))
        features = torch.cat([vlm.tokenizer.features(part) for part in pictures.split(self.batch_size)])

        def similarities() -> Iterator[Tensor]:
            return (proxy_logits(part, codebook) for part in features.split(self.batch_size))

        protocol: dict[str, object] = {
            "model": self.models.settings(),
            "sampling": asdict(sampling),
            "draws": len(prompts),
            "seed": self.seed,
            "encodes": len(pictures),
            "pictures_sha256": tensor_sha256(pictures),
        }
        calibration = fit_calibration(
            similarities, target.result(), codebook, codebook_sha256=tensor_sha256(codebook), protocol=protocol
        )
        self._write(calibration, prompts)

    def _material(self, vlm: ImageTokenModel) -> tuple[list[str], Tensor]:
        """Prompts, and pictures [M, 3, H, W] in [-1, 1]."""
        size = vlm.tokenizer.image_size
        if self.prompts is not None and self.images is not None:
            files = sorted(path for path in _files(self.images) if path.suffix.lower() in _SUFFIXES)[: self.encodes]
            if not files:
                raise SoftDecodeError(f"{self.images} holds no pictures; expected PNG, JPEG or WebP files")
            pictures = torch.stack([read_image(path, size, resize=True) for path in files])
            return read_prompts(self.prompts, self.draws), pictures
        data = load_emoji(self.data.expanduser()).split("train")
        if tuple(data.images.shape[-2:]) != size:
            raise SoftDecodeError(
                f"the emoji pictures do not fit a tokenizer of {size} pixels; give --prompts and --images"
            )
        places = torch.linspace(0, len(data) - 1, min(self.encodes, len(data))).round().long()
        return [emoji.caption for emoji in held_in_prompts(data, self.draws)], to_unit_range(data.images[places])

    def _write(self, calibration: Calibration, prompts: list[str]) -> None:
        result = {
            "command": "calibrate",
            "calibration": {"kappa": calibration.kappa, "epsilon": calibration.epsilon},
            "table1": table1(calibration),
            "protocol": {**calibration.protocol, "prompts": prompts},
            "provenance": provenance(),
        }
        with staged_files(self.output) as folder:
            calibration.save(folder / "calibration.json")
            write_text(folder / "table1.md", table1(calibration, as_text=True) + "\n")
            profile_plot(calibration, folder / "profile.png")
            write_json(folder / "result.json", result)
        if self.json:
            print(json.dumps(result))
            return
        print(f"kappa {calibration.kappa:.4g}, epsilon {calibration.epsilon:.4g}\n")
        print(table1(calibration, as_text=True))


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise SoftDecodeError(f"cannot read the folder {folder}: {error.strerror}") from error


def main(arguments: list[str]) -> None:
    parse(Calibrate, "calibrate", arguments).run()
