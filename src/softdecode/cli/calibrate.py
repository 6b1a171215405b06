"""`softdecode calibrate`: the VLM's statistics, the fit, Table 1 and the profile plot."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from softdecode.calibration import Calibration, CalibrationTarget, fit_calibration, proxy_logits
from softdecode.cli.options import ModelOptions, SamplingOptions, check_positive, parse
from softdecode.data.emoji import load_emoji
from softdecode.data.prompts import held_in_prompts, read_prompts
from softdecode.data.sources import CorruptPictures, PictureTransform, open_source, some_pictures
from softdecode.data.spacing import evenly_spaced
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.calibration_report import profile_plot, table1
from softdecode.files import staged_files, tensor_sha256, write_json, write_text
from softdecode.images import to_unit_range
from softdecode.mapping import log_probabilities
from softdecode.progress import Bars, progress_bars
from softdecode.provenance import provenance
from softdecode.statistics import StatisticsAccumulator, TokenStatistics
from softdecode.training.jobs import DEFAULT_DATA
from softdecode.vlm.base import ImageTokenModel, SamplingConfig


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Fit the encoder's proxy logits to the VLM's statistics (spec section 2).

    Draws images with the VLM, encodes real ones with its tokenizer, and writes calibration.json, table1.md,
    profile.png and result.json. Without --prompts and --images the emoji data is used. Where the VLM is not at hand,
    its published entropy and top-1 will do: --target-entropy, --target-top1 and --images, and --model may be a
    tokenizer's folder.
    """

    output: Path = Path("outputs/calibrate")
    """Folder for the results."""
    prompts: Path | None = None
    """File of prompts, a line each, or JSON lines with a field "prompt"."""
    images: str | None = None
    """Pictures to encode: a folder, .tar files as train-{000..004}.tar, hf:NAME or hf-stream:NAME (see docs/data.md);
    resized and centre-cropped. Evenly spaced ones of a folder or hf:, else the first."""
    target_entropy: float | None = None
    """Mean normalised entropy to reach, in [0, 1], in place of a VLM's."""
    target_top1: float | None = None
    """Mean top-1 probability to reach, in [0, 1], in place of a VLM's."""
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
        stated = self._stated_target()
        if stated is None and (self.prompts is None) != (self.images is None):
            raise SoftDecodeError("--prompts and --images go together; without both the emoji data is used")
        vlm, tokenizer = self.models.load_vlm_or_tokenizer()
        if stated is None and vlm is None:
            raise SoftDecodeError(f"{self.models.model} is a tokenizer; state --target-entropy and --target-top1")
        codebook = tokenizer.codebook
        prompts: list[str] = []
        protocol: dict[str, object] = {"model": self.models.settings(), "seed": self.seed}
        with progress_bars(self.json) as bars:
            if stated is None:
                assert vlm is not None
                prompts, sampling = self._prompts(), self.sampling.over(vlm.defaults)
                target = self._drawn_target(vlm, prompts, sampling, bars)
                protocol |= {"sampling": asdict(sampling), "draws": len(prompts)}
            else:
                target = stated
                protocol |= {"target": asdict(stated)}
        pictures = self._pictures(tokenizer.image_size)
        features = torch.cat([tokenizer.features(part) for part in pictures.split(self.batch_size)])

        def similarities() -> Iterator[Tensor]:
            return (proxy_logits(part, codebook) for part in features.split(self.batch_size))

        protocol |= {"encodes": len(pictures), "pictures_sha256": tensor_sha256(pictures)}
        calibration = fit_calibration(
            similarities, target, codebook, codebook_sha256=tensor_sha256(codebook), protocol=protocol
        )
        self._write(calibration, prompts)

    def _stated_target(self) -> CalibrationTarget | None:
        if self.target_entropy is None and self.target_top1 is None:
            return None
        if self.target_entropy is None or self.target_top1 is None or self.prompts is not None:
            raise SoftDecodeError("--target-entropy and --target-top1 go together, and stand in place of --prompts")
        return CalibrationTarget(entropy=self.target_entropy, top1=self.target_top1)

    def _drawn_target(
        self, vlm: ImageTokenModel, prompts: list[str], sampling: SamplingConfig, bars: Bars
    ) -> TokenStatistics:
        """The statistics of what the VLM believes while it draws."""
        target = StatisticsAccumulator(vlm.tokenizer.codebook)
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            vlm.sample(
                batch,
                seeds=range(self.seed + start, self.seed + start + len(batch)),
                sampling=sampling,
                on_logits=lambda logits: target.add(log_probabilities(logits)),
            )
            bars("VLM images", start + len(batch), len(prompts))
        return target.result()

    def _prompts(self) -> list[str]:
        if self.prompts is not None:
            return read_prompts(self.prompts, self.draws)
        data = load_emoji(self.data.expanduser()).split("train")
        return [emoji.caption for emoji in held_in_prompts(data, self.draws)]

    def _pictures(self, size: tuple[int, int]) -> Tensor:
        """Pictures to encode [M, 3, H, W] in [-1, 1]."""
        if self.images is None:
            data = load_emoji(self.data.expanduser()).split("train")
            if tuple(data.images.shape[-2:]) != size:
                raise SoftDecodeError(
                    f"the emoji pictures do not fit a tokenizer of {size} pixels; give --prompts and --images"
                )
            return to_unit_range(data.images[evenly_spaced(len(data), self.encodes)])
        source = open_source(self.images, transform=PictureTransform(size, allow_upscale=True))
        corrupt = CorruptPictures(self.output / "unusable.jsonl", limit=0.0, minimum=0)
        return to_unit_range(some_pictures(source, corrupt, self.encodes).images)

    def _write(self, calibration: Calibration, prompts: list[str]) -> None:
        assert calibration.raw is not None
        assert calibration.reached is not None
        drawn = calibration.target is not None  # a stated target has no table
        result = {
            "command": "calibrate",
            "calibration": {"kappa": calibration.kappa, "epsilon": calibration.epsilon},
            **({"table1": table1(calibration)} if drawn else {"reached": asdict(calibration.reached)}),
            "protocol": {**calibration.protocol, "prompts": prompts},
            "provenance": provenance(),
        }
        with staged_files(self.output) as folder:
            calibration.save(folder / "calibration.json")
            if drawn:
                write_text(folder / "table1.md", table1(calibration, as_text=True) + "\n")
            profile_plot(calibration, folder / "profile.png")
            write_json(folder / "result.json", result)
        if self.json:
            print(json.dumps(result))
            return
        print(f"kappa {calibration.kappa:.4g}, epsilon {calibration.epsilon:.4g}\n")
        reached = calibration.reached
        print(
            table1(calibration, as_text=True)
            if drawn
            else f"normalised entropy {reached.entropy:.4f}, top-1 {reached.top1:.4f}, top-2 {reached.top2:.4f}"
        )


def main(arguments: list[str]) -> None:
    parse(Calibrate, "calibrate", arguments).run()
