"""`softdecode evaluate reconstruction`: every decoder on the held-out pictures."""

from dataclasses import dataclass
from pathlib import Path

from softdecode.cli.evaluation_command import EvaluationCommand
from softdecode.cli.evaluation_options import write_results, write_sheet
from softdecode.cli.options import check_positive, parse
from softdecode.data.sources import SourceOptions
from softdecode.data.spacing import evenly_spaced
from softdecode.evaluation.metrics_protocol import metrics_protocol
from softdecode.evaluation.pictures import EvaluationPictures, emoji_test_pictures, source_pictures
from softdecode.evaluation.processes import Processes, joined_processes
from softdecode.evaluation.reconstruction import evaluate_reconstruction
from softdecode.models import DEFAULT_VLM
from softdecode.progress import progress_bars


@dataclass(frozen=True, kw_only=True)
class EvaluateReconstruction(EvaluationCommand, SourceOptions):
    """Measure the VAE round trip, the VQ decoder and every soft decoder on the held-out emoji, or on other pictures.

    Writes result.json and grid.png (a fixed draw of pictures).
    """

    output: Path = Path("outputs/evaluate-reconstruction")
    """Folder for the results."""
    images: str | None = None
    """Other pictures: a folder, .tar files as val-{000..004}.tar or hf:NAME (see docs/data.md); --model may then be a
    tokenizer's folder."""
    limit: int | None = None
    """Measure only so many pictures, >= 2: evenly spaced emoji, or the first of others (the result file says so)."""

    def run(self) -> None:
        self.check()
        check_positive(limit=self.limit)
        if self.images is None:
            self.refuse_without_source()
        with joined_processes() as processes:
            self._run(processes)

    def _pictures(self, size: tuple[int, int]) -> EvaluationPictures:
        if self.images is None:
            return emoji_test_pictures(self.data.expanduser(), self.limit)
        return source_pictures(self.images, size, self.output, self.limit, self)

    def _run(self, processes: Processes) -> None:
        vlm, tokenizer = self.models.load_vlm_or_tokenizer()
        measured = self.load_measured(tokenizer, str(self.models.model or DEFAULT_VLM))
        with processes.main_first():  # what has to be fetched, prepared or hashed first, one process does
            pictures = self._pictures(tokenizer.image_size)
        decoders = list(measured.decoders.values())
        calibrated = [decoder for decoder in decoders if decoder.calibration.kappa != 1] or decoders
        # Fixed rule: every k-th picture of the split, in its own order.
        shown = evenly_spaced(len(pictures.images), 12)
        with progress_bars(self.json or not processes.main) as bars:
            measuring = self.measuring(processes, shown, bars)
            measurement = evaluate_reconstruction(
                pictures.images,
                tokenizer,
                measured.decoders,
                measuring,
                calibration=calibrated[0].calibration,
                steps=measured.steps,
                seed=self.seed,
                vlm=vlm,
                captions=pictures.captions,
                tuned=measured.tuned,
            )
        if not processes.main:
            return
        columns = measured.columns({"VAE": "vae-ceiling", "VQ": "vq"})
        write_sheet(self.output, measurement, columns, pictures.labels(shown))
        protocol: dict[str, object] = {
            "task": "reconstruction",
            **pictures.description,
            "count": len(pictures.images),
            "resolution": list(tokenizer.image_size),
            "seed": self.seed,
            "models": self.models.settings(),
            **measured.settings(),
        }
        write_results(
            self.output,
            measurement,
            command="evaluate reconstruction",
            protocol=protocol,
            metrics=metrics_protocol(measuring.extractor, measuring.lpips, task="reconstruction"),
            as_json=self.json,
        )


def main(arguments: list[str]) -> None:
    parse(EvaluateReconstruction, "evaluate reconstruction", arguments).run()
