"""`softdecode evaluate generation`: drawn pictures against real ones."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from softdecode.cli.evaluation_options import (
    PictureOptions,
    decoder_settings,
    load_decoders,
    load_tuned,
    write_results,
    write_sheet,
)
from softdecode.cli.metric_options import MetricOptions
from softdecode.cli.options import ModelOptions, SamplingOptions, check_positive, parse
from softdecode.data.emoji import load_emoji
from softdecode.data.prompts import held_in_prompts
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.generation import evaluate_generation
from softdecode.evaluation.measuring import Measuring
from softdecode.evaluation.metrics_protocol import metrics_protocol
from softdecode.evaluation.pictures import EMOJI_RESIZER
from softdecode.evaluation.processes import Processes, joined_processes
from softdecode.progress import progress_bars
from softdecode.training.jobs import DEFAULT_DATA


@dataclass(frozen=True, kw_only=True)
class EvaluateGeneration:
    """Draw captions of the training split, and measure VQ and soft-decoded pictures against the real ones.

    Writes result.json and grid.png (a fixed draw of prompts).
    """

    decoders: tuple[Path, ...] = ()
    """Decoder folders, each a row; the embedded ones where absent."""
    output: Path = Path("outputs/evaluate-generation")
    """Folder for the results."""
    vq_decoder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """What `train vq-decoder` made of the tokenizer: a baseline, the row vq-tuned."""
    data: Path = DEFAULT_DATA
    """Folder of the emoji data."""
    prompts: int = 1000
    """Captions to draw, in a fixed order, >= 2."""
    steps: tuple[int, ...] = ()
    """Denoising steps, each >= 1 and a row; the decoders' own number where absent."""
    seed: int = 0
    """Seed of the first prompt; the others count on from it."""
    batch_size: int = 50
    """Prompts drawn at a time, >= 1; the pictures do not depend on it."""
    json: bool = False
    """Print result.json instead of the table."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    metrics: Annotated[MetricOptions, tyro.conf.arg(name="")] = field(default_factory=MetricOptions)
    saving: Annotated[PictureOptions, tyro.conf.arg(name="")] = field(default_factory=PictureOptions)

    def run(self) -> None:
        check_positive(batch_size=self.batch_size, steps=min(self.steps, default=None))
        if self.prompts < 2:
            raise SoftDecodeError(f"--prompts must be at least 2, got {self.prompts}")
        if self.models.decoder is not None:
            raise SoftDecodeError("name the decoders to measure with --decoders")
        if self.metrics.lpips:
            raise SoftDecodeError("LPIPS compares pairs of pictures, drawn ones have none; leave --lpips out")
        with joined_processes() as processes:
            self._run(processes)

    def _run(self, processes: Processes) -> None:
        vlm = self.models.load_vlm()
        decoders = load_decoders(self.decoders, self.models)
        for decoder in decoders.values():
            decoder.check_codebook(vlm.tokenizer.codebook, vlm.name)
        tuned = load_tuned(self.vq_decoder, vlm.tokenizer, self.models)
        data = load_emoji(self.data.expanduser()).split("train")
        chosen = held_in_prompts(data, self.prompts)
        places = {emoji: place for place, emoji in enumerate(data.emoji)}
        references = data.images[torch.tensor([places[emoji] for emoji in chosen])]
        captions = [emoji.caption for emoji in chosen]
        sampling = self.sampling.over(vlm.defaults)
        steps = self.steps or (next(iter(decoders.values())).config.steps,)
        extractor, _ = self.metrics.load(self.models.device)
        # Fixed rule: the first prompts, whose order is that of their hashes.
        shown = range(min(12, len(captions)))
        with progress_bars(self.json or not processes.main) as bars:
            measurement, seconds = evaluate_generation(
                captions,
                references,
                vlm,
                decoders,
                Measuring(
                    extractor=extractor,
                    batch_size=self.batch_size,
                    keep=shown,
                    sinks=self.saving.sinks(processes),
                    processes=processes,
                    on_progress=bars,
                ),
                sampling=sampling,
                steps=steps,
                seed=self.seed,
                tuned=tuned,
            )
        if not processes.main:
            return
        columns = {"VQ": "vq"} | ({} if tuned is None else {"VQ tuned": "vq-tuned"})
        columns |= {name: f"{name}@{max(steps)}" for name in decoders}
        write_sheet(self.output, measurement, columns, [captions[place] for place in shown])
        protocol: dict[str, object] = {
            "task": "generation",
            "prompts": "captions of the emoji train split, ordered by SHA-256",
            "reference": "the real pictures of these captions",
            "data_sha256": data.digest,
            "count": len(captions),
            "reference_count": len(references),
            "resolution": list(vlm.tokenizer.image_size),
            "resizer": EMOJI_RESIZER,
            "crop": "none",
            "seed": self.seed,
            "sampling": asdict(sampling),
            "vlm_seconds": seconds,
            "decoders": {name: decoder_settings(decoder) for name, decoder in decoders.items()},
            "models": self.models.settings(),
            "codebook_sha256": next(iter(decoders.values())).config.codebook_sha256,
        }
        write_results(
            self.output,
            measurement,
            command="evaluate generation",
            protocol=protocol,
            metrics=metrics_protocol(extractor, task="generation"),
            as_json=self.json,
        )


def main(arguments: list[str]) -> None:
    parse(EvaluateGeneration, "evaluate generation", arguments).run()
