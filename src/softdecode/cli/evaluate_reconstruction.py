"""`softdecode evaluate reconstruction`: every decoder on the held-out pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from softdecode.cli.evaluation_options import (
    decoder_settings,
    load_decoders,
    load_extractor,
    write_results,
    write_sheet,
)
from softdecode.cli.options import ModelOptions, check_positive, parse
from softdecode.data.emoji import load_emoji
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.reconstruction import evaluate_reconstruction
from softdecode.progress import progress_bars
from softdecode.training.jobs import DEFAULT_DATA


@dataclass(frozen=True, kw_only=True)
class EvaluateReconstruction:
    """Measure the VAE round trip, the VQ decoder and every soft decoder on the held-out emoji.

    Writes result.json and grid.png (a fixed draw of pictures).
    """

    decoders: tuple[Path, ...] = ()
    """Decoder folders, each a row; the embedded ones where absent."""
    output: Path = Path("outputs/evaluate-reconstruction")
    """Folder for the results."""
    data: Path = DEFAULT_DATA
    """Folder of the emoji data."""
    limit: int | None = None
    """Measure only so many pictures, >= 2, evenly spaced (for trying things out; the result file says so)."""
    steps: tuple[int, ...] = ()
    """Denoising steps, each >= 1 and a row; the decoders' own number where absent."""
    seed: int = 0
    """Seed of the first picture's noise; the others count on from it."""
    batch_size: int = 64
    """Pictures decoded at a time, >= 1; the pictures do not depend on it."""
    json: bool = False
    """Print result.json instead of the table."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)

    def run(self) -> None:
        check_positive(limit=self.limit, batch_size=self.batch_size, steps=min(self.steps, default=None))
        if self.models.decoder is not None:
            raise SoftDecodeError("name the decoders to measure with --decoders")
        vlm = self.models.load_vlm()
        decoders = load_decoders(self.decoders, self.models)
        for decoder in decoders.values():
            decoder.check_codebook(vlm.tokenizer.codebook, vlm.name)
        data = load_emoji(self.data.expanduser()).split("test")
        places = torch.linspace(0, len(data) - 1, min(self.limit or len(data), len(data))).round().long()
        calibrated = [d for d in decoders.values() if d.calibration.kappa != 1] or list(decoders.values())
        steps = self.steps or (next(iter(decoders.values())).config.steps,)
        with progress_bars(self.json) as bars:
            measurement = evaluate_reconstruction(
                data.images[places],
                vlm.tokenizer,
                decoders,
                load_extractor(self.models),
                calibration=calibrated[0].calibration,
                steps=steps,
                seed=self.seed,
                batch_size=self.batch_size,
                on_progress=bars,
            )
        captions = [data.emoji[place].caption for place in places.tolist()]
        # Fixed rule: every k-th picture of the split, in its own order.
        shown = torch.linspace(0, len(places) - 1, min(12, len(places))).round().long().tolist()
        shown_steps = max(steps)
        columns = {"VAE": "vae-ceiling", "VQ": "vq"} | {name: f"{name}@{shown_steps}" for name in decoders}
        write_sheet(self.output, measurement, columns, captions, shown)
        protocol: dict[str, object] = {
            "task": "reconstruction",
            "reference": "the originals, emoji test split (whole families held out)",
            "data_sha256": data.digest,
            "count": len(places),
            "whole_split": len(places) == len(data),
            "resolution": list(vlm.tokenizer.image_size),
            "resizer": "none: pictures are 64 px as published (fluent: Lanczos from 256 px)",
            "seed": self.seed,
            "decoders": {name: decoder_settings(decoder) for name, decoder in decoders.items()},
            "models": self.models.settings(),
            "codebook_sha256": next(iter(decoders.values())).config.codebook_sha256,
        }
        write_results(self.output, measurement, command="evaluate reconstruction", protocol=protocol, as_json=self.json)


def main(arguments: list[str]) -> None:
    parse(EvaluateReconstruction, "evaluate reconstruction", arguments).run()
