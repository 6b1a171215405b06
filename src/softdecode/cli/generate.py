"""`softdecode generate`: prompts to pictures, both ways, with a sheet and a record."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image
from torch import Tensor

from softdecode.cli.options import ModelOptions, SamplingOptions, check_positive, parse
from softdecode.errors import SoftDecodeError
from softdecode.files import staged_files, write_json
from softdecode.images import save_image, to_pil
from softdecode.mapping import TokenDistribution, concatenate
from softdecode.progress import progress_bars
from softdecode.provenance import provenance
from softdecode.sheet import contact_sheet
from softdecode.vlm.base import check_prompts


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draw prompts with the VLM and decode its tokens twice: with its VQ decoder, and softly.

    Writes NNN-vq.png and NNN-soft.png for each prompt, NNN.safetensors with what the soft decoder saw,
    comparison.png and result.json.
    """

    prompts: Annotated[tuple[str, ...], tyro.conf.Positional]
    """What to draw; the embedded model knows "noto", "twemoji" and "fluent" emoji, as in "noto red apple"."""
    output: Path = Path("outputs/generate")
    """Folder for the pictures."""
    seed: int = 0
    """Seed of the first prompt; the others count on from it."""
    steps: int | None = None
    """Denoising steps, >= 1; the decoder's own number where absent."""
    batch_size: int = 16
    """Prompts drawn at a time, >= 1; the pictures do not depend on it."""
    json: bool = False
    """Print result.json instead of progress."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)

    def run(self) -> None:
        check_positive(steps=self.steps, batch_size=self.batch_size)
        if not self.prompts:
            raise SoftDecodeError('no prompt given; say what to draw, as in `softdecode generate "noto red apple"`')
        seeds = [self.seed + place for place in range(len(self.prompts))]
        check_prompts(self.prompts, seeds)
        seconds = {"load": 0.0, "vlm": 0.0, "vq": 0.0, "soft": 0.0}
        began = time.perf_counter()
        pipe = self.models.load_pipeline()
        seconds["load"] = time.perf_counter() - began
        sampling = self.sampling.over(pipe.vlm.defaults)
        batches = [slice(at, at + self.batch_size) for at in range(0, len(self.prompts), self.batch_size)]
        drawn: list[tuple[TokenDistribution, Tensor]] = []
        pairs: list[tuple[Image.Image, Image.Image]] = []
        with progress_bars(self.json) as bars:
            for batch in batches:  # the VLM's phase first, for all, so that it need not come back
                clock = time.perf_counter()
                distribution = pipe.sample(
                    self.prompts[batch],
                    seeds=seeds[batch],
                    sampling=sampling,
                    on_progress=lambda _stage, done, total: bars("VLM tokens", done, total),
                )
                seconds["vlm"] += (sampled := time.perf_counter()) - clock
                drawn.append((distribution, pipe.decode_vq(distribution)))
                seconds["vq"] += time.perf_counter() - sampled
            for batch, (distribution, vq) in zip(batches, drawn, strict=True):
                clock = time.perf_counter()
                soft = pipe.decode(
                    distribution,
                    seeds=seeds[batch],
                    vq_images=vq,
                    num_inference_steps=self.steps,
                    on_progress=lambda _stage, done, total: bars("denoising", done, total),
                )
                seconds["soft"] += time.perf_counter() - clock
                pairs += zip(to_pil(vq), to_pil(soft), strict=True)
        usual = seconds["vlm"] + seconds["vq"]
        softly = seconds["vlm"] + seconds["soft"] + (seconds["vq"] if pipe.decoder.config.draft else 0.0)
        result = {
            "command": "generate",
            "prompts": list(self.prompts),
            "seeds": seeds,
            "steps": self.steps or pipe.decoder.config.steps,
            "batch_size": self.batch_size,
            "sampling": asdict(sampling),
            "models": {
                **self.models.settings(),
                "codebook_sha256": pipe.decoder.config.codebook_sha256,
                "trained": pipe.decoder.config.trained,
            },
            "device": str(pipe.decoder.device),
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            # What soft decoding costs on top of the usual way, VLM + VQ decoder (paper, Table 5).
            "decode_overhead_percent": round(100 * (softly - usual) / usual, 1),
            "provenance": provenance(),
        }
        self._write(pairs, concatenate([distribution for distribution, _ in drawn]), result)
        if self.json:
            print(json.dumps(result))
        else:
            overhead = result["decode_overhead_percent"]
            print(f"wrote {len(pairs)} pairs and comparison.png to {self.output}; decode overhead {overhead} %")

    def _write(
        self, pairs: list[tuple[Image.Image, Image.Image]], distribution: TokenDistribution, result: dict[str, object]
    ) -> None:
        with staged_files(self.output) as folder:
            for place, (vq, soft) in enumerate(pairs):
                distribution[[place]].save(folder / f"{place:03d}.safetensors")
                save_image(vq, folder / f"{place:03d}-vq.png")
                save_image(soft, folder / f"{place:03d}-soft.png")
            sheet = contact_sheet(["VQ decoder", "soft decoder"], self.prompts, pairs)
            save_image(sheet, folder / "comparison.png")
            write_json(folder / "result.json", result)


def main(arguments: list[str]) -> None:
    parse(Generate, "generate", arguments).run()
