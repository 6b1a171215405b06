"""What both evaluations of decoders are told, and do alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from softdecode.cli.evaluation_options import PictureOptions, decoder_settings, load_decoders, load_tuned
from softdecode.cli.metric_options import MetricOptions
from softdecode.cli.options import ModelOptions, check_positive
from softdecode.decoder import DistributionDecoder
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.measuring import Measuring
from softdecode.evaluation.processes import Processes
from softdecode.progress import Progress
from softdecode.training.jobs import DEFAULT_DATA
from softdecode.vlm.base import ImageTokenizer


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The decoders of an evaluation.

    Attributes:
        decoders: by name.
        tuned: the tokenizer with its VQ decoder trained further; None where it is not measured.
        steps: numbers of denoising steps; each decoder's own where there are none.
    """

    decoders: Mapping[str, DistributionDecoder]
    tuned: ImageTokenizer | None
    steps: Sequence[int]

    def columns(self, baselines: Mapping[str, str]) -> dict[str, str]:
        """Of a contact sheet: headings to rows; the baselines, then every decoder with its most steps."""
        tuned = {} if self.tuned is None else {"VQ tuned": "vq-tuned"}
        most = {name: max(self.steps or (decoder.config.steps,)) for name, decoder in self.decoders.items()}
        return {**baselines, **tuned, **{name: f"{name}@{steps}" for name, steps in most.items()}}

    def settings(self) -> dict[str, object]:
        """What a result file says of them."""
        return {
            "decoders": {name: decoder_settings(decoder) for name, decoder in self.decoders.items()},
            "codebook_sha256": next(iter(self.decoders.values())).config.codebook_sha256,
        }


@dataclass(frozen=True, kw_only=True)
class EvaluationCommand:
    """Options of both evaluations."""

    decoders: tuple[Path, ...] = ()
    """Decoder folders, each a row; the embedded ones where absent."""
    vq_decoder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """What `train vq-decoder` made of the tokenizer: a baseline, the row vq-tuned."""
    data: Path = DEFAULT_DATA
    """Folder of the emoji data."""
    steps: tuple[int, ...] = ()
    """Denoising steps, different ones >= 1, each a row; each decoder's own number where absent."""
    seed: int = 0
    """Seed of the first picture; the others count on from it."""
    batch_size: int = 64
    """Pictures made at a time, >= 1; the pictures do not depend on it."""
    json: bool = False
    """Print result.json instead of the table."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    metrics: Annotated[MetricOptions, tyro.conf.arg(name="")] = field(default_factory=MetricOptions)
    saving: Annotated[PictureOptions, tyro.conf.arg(name="")] = field(default_factory=PictureOptions)

    def check(self) -> None:
        """Refuse wrong settings before any long work."""
        check_positive(batch_size=self.batch_size, steps=min(self.steps, default=None))
        if len(set(self.steps)) < len(self.steps):
            raise SoftDecodeError(f"--steps names a number twice: {' '.join(map(str, self.steps))}")
        if self.models.decoder is not None:
            raise SoftDecodeError("name the decoders to measure with --decoders")

    def load_measured(self, tokenizer: ImageTokenizer, name: str) -> Measured:
        """The decoders and the tuned VQ decoder, which must be of the tokenizer that the VLM `name` has."""
        decoders = load_decoders(self.decoders, self.models)
        for decoder in decoders.values():
            decoder.check_codebook(tokenizer.codebook, name)
        return Measured(
            decoders=decoders,
            tuned=load_tuned(self.vq_decoder, tokenizer, self.models),
            steps=self.steps,
        )

    def measuring(self, processes: Processes, keep: Sequence[int], on_progress: Progress) -> Measuring:
        """How pictures are measured; those at the places `keep` are kept for the contact sheet."""
        extractor, lpips = self.metrics.load(self.models.device)
        return Measuring(
            extractor=extractor,
            lpips=lpips,
            batch_size=self.batch_size,
            keep=keep,
            sinks=self.saving.sinks(processes),
            processes=processes,
            on_progress=on_progress,
        )
