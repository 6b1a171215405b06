"""`softdecode evaluate generation`: drawn pictures against real ones."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from softdecode.cli.evaluation_command import EvaluationCommand
from softdecode.cli.evaluation_options import write_results, write_sheet
from softdecode.cli.options import SamplingOptions, parse
from softdecode.data.emoji import load_emoji
from softdecode.data.prompts import held_in_prompts
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.generation import evaluate_generation
from softdecode.evaluation.metrics_protocol import metrics_protocol
from softdecode.evaluation.pictures import EMOJI_RESIZER
from softdecode.evaluation.processes import Processes, joined_processes
from softdecode.progress import progress_bars


@dataclass(frozen=True, kw_only=True)
class EvaluateGeneration(EvaluationCommand):
    """Draw captions of the training split, and measure VQ and soft-decoded pictures against the real ones.

    Writes result.json and grid.png (a fixed draw of prompts).
    """

    output: Path = Path("outputs/evaluate-generation")
    """Folder for the results."""
    prompts: int = 1000
    """Captions to draw, in a fixed order, >= 2."""
    batch_size: int = 50
    """Prompts drawn at a time, >= 1; the pictures do not depend on it."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)

    def run(self) -> None:
        self.check()
        if self.prompts < 2:
            raise SoftDecodeError(f"--prompts must be at least 2, got {self.prompts}")
        if self.metrics.lpips:
            raise SoftDecodeError("LPIPS compares pairs of pictures, drawn ones have none; leave --lpips out")
        with joined_processes() as processes:
            self._run(processes)

    def _run(self, processes: Processes) -> None:
        vlm = self.models.load_vlm()
        measured = self.load_measured(vlm.tokenizer, vlm.name)
        with processes.main_first():  # where the pictures are not prepared yet, one process does it
            data = load_emoji(self.data.expanduser()).split("train")
        chosen = held_in_prompts(data, self.prompts)
        places = {emoji: place for place, emoji in enumerate(data.emoji)}
        references = data.images[torch.tensor([places[emoji] for emoji in chosen])]
        captions = [emoji.caption for emoji in chosen]
        sampling = self.sampling.over(vlm.defaults)
        # Fixed rule: the first prompts, whose order is that of their hashes.
        shown = range(min(12, len(captions)))
        with progress_bars(self.json or not processes.main) as bars:
            measuring = self.measuring(processes, shown, bars)
            measurement, seconds = evaluate_generation(
                captions,
                references,
                vlm,
                measured.decoders,
                measuring,
                sampling=sampling,
                steps=measured.steps,
                seed=self.seed,
                tuned=measured.tuned,
            )
        if not processes.main:
            return
        columns = measured.columns({"VQ": "vq"})
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
            "models": self.models.settings(),
            **measured.settings(),
        }
        write_results(
            self.output,
            measurement,
            command="evaluate generation",
            protocol=protocol,
            metrics=metrics_protocol(measuring.extractor, task="generation"),
            as_json=self.json,
        )


def main(arguments: list[str]) -> None:
    parse(EvaluateGeneration, "evaluate generation", arguments).run()
