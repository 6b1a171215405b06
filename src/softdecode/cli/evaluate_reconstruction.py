"""`softdecode evaluate reconstruction`: every decoder on the held-out pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from softdecode.cli.evaluation_options import (
    PictureOptions,
    decoder_settings,
    load_decoders,
    load_tuned,
    spread,
    write_results,
    write_sheet,
)
from softdecode.cli.metric_options import MetricOptions
from softdecode.cli.options import ModelOptions, check_positive, parse
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.measuring import Measuring
from softdecode.evaluation.metrics_protocol import metrics_protocol
from softdecode.evaluation.pictures import emoji_test_pictures, source_pictures
from softdecode.evaluation.processes import Processes, joined_processes
from softdecode.evaluation.reconstruction import evaluate_reconstruction
from softdecode.models import DEFAULT_VLM
from softdecode.progress import progress_bars
from softdecode.training.jobs import DEFAULT_DATA


@dataclass(frozen=True, kw_only=True)
class EvaluateReconstruction:
    """Measure the VAE round trip, the VQ decoder and every soft decoder on the held-out emoji, or on other pictures.

    Writes result.json and grid.png (a fixed draw of pictures).
    """

    decoders: tuple[Path, ...] = ()
    """Decoder folders, each a row; the embedded ones where absent."""
    output: Path = Path("outputs/evaluate-reconstruction")
    """Folder for the results."""
    vq_decoder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """What `train vq-decoder` made of the tokenizer: a baseline, the row vq-tuned."""
    images: str | None = None
    """Other pictures: a folder, .tar files as val-{000..004}.tar or hf:NAME (see docs/data.md); --model may then be a
    tokenizer's folder."""
    data: Path = DEFAULT_DATA
    """Folder of the emoji data."""
    limit: int | None = None
    """Measure only so many pictures, >= 2: evenly spaced emoji, or the first of others (the result file says so)."""
    steps: tuple[int, ...] = ()
    """Denoising steps, each >= 1 and a row; the decoders' own number where absent."""
    seed: int = 0
    """Seed of the first picture's noise; the others count on from it."""
    batch_size: int = 64
    """Pictures decoded at a time, >= 1; the pictures do not depend on it."""
    json: bool = False
    """Print result.json instead of the table."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    metrics: Annotated[MetricOptions, tyro.conf.arg(name="")] = field(default_factory=MetricOptions)
    saving: Annotated[PictureOptions, tyro.conf.arg(name="")] = field(default_factory=PictureOptions)

    def run(self) -> None:
        check_positive(limit=self.limit, batch_size=self.batch_size, steps=min(self.steps, default=None))
        if self.models.decoder is not None:
            raise SoftDecodeError("name the decoders to measure with --decoders")
        with joined_processes() as processes:
            self._run(processes)

    def _run(self, processes: Processes) -> None:
        vlm, tokenizer = self.models.load_vlm_or_tokenizer()
        decoders = load_decoders(self.decoders, self.models)
        for decoder in decoders.values():
            decoder.check_codebook(tokenizer.codebook, str(self.models.model or DEFAULT_VLM))
        tuned = load_tuned(self.vq_decoder, tokenizer, self.models)
        if self.images is None:
            pictures = emoji_test_pictures(self.data.expanduser(), self.limit)
        else:
            pictures = source_pictures(self.images, tokenizer.image_size, self.output, self.limit)
        calibrated = [d for d in decoders.values() if d.calibration.kappa != 1] or list(decoders.values())
        steps = self.steps or (next(iter(decoders.values())).config.steps,)
        extractor, lpips = self.metrics.load(self.models.device)
        # Fixed rule: every k-th picture of the split, in its own order.
        shown = spread(len(pictures.images), 12)
        with progress_bars(self.json or not processes.main) as bars:
            measurement = evaluate_reconstruction(
                pictures.images,
                tokenizer,
                decoders,
                Measuring(
                    extractor=extractor,
                    lpips=lpips,
                    batch_size=self.batch_size,
                    keep=shown,
                    sinks=self.saving.sinks(processes),
                    processes=processes,
                    on_progress=bars,
                ),
                calibration=calibrated[0].calibration,
                steps=steps,
                seed=self.seed,
                vlm=vlm,
                captions=pictures.captions,
                tuned=tuned,
            )
        if not processes.main:
            return
        labels = [str(place) if pictures.captions is None else pictures.captions[place] for place in shown]
        columns = {"VAE": "vae-ceiling", "VQ": "vq"} | ({} if tuned is None else {"VQ tuned": "vq-tuned"})
        columns |= {name: f"{name}@{max(steps)}" for name in decoders}
        write_sheet(self.output, measurement, columns, labels)
        protocol: dict[str, object] = {
            "task": "reconstruction",
            **pictures.description,
            "count": len(pictures.images),
            "resolution": list(tokenizer.image_size),
            "seed": self.seed,
            "decoders": {name: decoder_settings(decoder) for name, decoder in decoders.items()},
            "models": self.models.settings(),
            "codebook_sha256": next(iter(decoders.values())).config.codebook_sha256,
        }
        write_results(
            self.output,
            measurement,
            command="evaluate reconstruction",
            protocol=protocol,
            metrics=metrics_protocol(extractor, lpips, task="reconstruction"),
            as_json=self.json,
        )


def main(arguments: list[str]) -> None:
    parse(EvaluateReconstruction, "evaluate reconstruction", arguments).run()
