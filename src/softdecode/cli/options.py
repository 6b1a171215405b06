"""Options and helpers that several commands share."""

import contextlib
import inspect
import io
import re
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from softdecode.default_decoder import UntrainedDecoderWarning
from softdecode.device import resolve_placement
from softdecode.errors import SoftDecodeError
from softdecode.memory.offload import Offload
from softdecode.memory.placement import Placement
from softdecode.memory.quantize import Quantization
from softdecode.models import DEFAULT_VLM
from softdecode.pipeline import SoftDecodePipeline
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel, SamplingConfig
from softdecode.vlm.registry import load_vlm_or_tokenizer

T = TypeVar("T")


def parse(command: type[T], name: str, arguments: list[str]) -> T:
    """Parse a sub-command's arguments; exits with code 2 on unknown or malformed ones."""
    return parse_with(command, name, arguments)


def parse_with(command: type[T], name: str, arguments: list[str], **options: Any) -> T:
    """tyro's parser, whose boxed reports become one line."""
    report = io.StringIO()
    try:
        with contextlib.redirect_stderr(report):
            return tyro.cli(
                command, prog=f"softdecode {name}", description=inspect.getdoc(command), args=arguments, **options
            )
    except SystemExit as ended:
        if ended.code in (0, None):
            raise
        words = re.sub(r"\x1b\[[0-9;]*m|[╭─╮│╰╯]", " ", report.getvalue()).split()
        raise SoftDecodeError(" ".join(words) or "the options could not be understood") from None


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which models to run, and where."""

    model: Annotated[str | None, tyro.conf.arg(metavar="FOLDER|HUB-ID")] = None
    """The VLM; the embedded text-to-emoji model where absent."""
    decoder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The decoder; where absent the embedded one if it is this VLM's, else an untrained one, with a warning."""
    base: Annotated[str | None, tyro.conf.arg(metavar="FOLDER|HUB-ID|FILE")] = None
    """The decoder's base, if not where the decoder says; for an untrained decoder the embedded one where absent."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""
    dtype: str = "auto"
    """auto (bfloat16 on CUDA, float32 elsewhere), float32, bfloat16 or float16."""
    offload: Offload = "none"
    """What waits in the CPU's memory: nothing; the model whose phase it is not; every layer that does not compute."""
    quantize_vlm: Quantization = "none"
    """nf4 for 4-bit weights of the VLM."""
    quantize_base: Quantization = "none"
    """nf4 for 4-bit weights of the decoder's transformer."""

    def load_vlm(self) -> ImageTokenModel:
        """The VLM alone, for commands that need no decoder, or other ones than `--decoder` names."""
        self.refuse("decoder", "base", "offload", "quantize_base")
        place = Placement.resolve(self.device, self.dtype, quantize_vlm=self.quantize_vlm)
        return place.load_vlm(self.model or DEFAULT_VLM)

    def load_vlm_or_tokenizer(self) -> tuple[ImageTokenModel | None, ImageTokenizer]:
        """The VLM and its tokenizer, or the tokenizer alone where `--model` is one's folder."""
        self.refuse("decoder", "base", "offload", "quantize_base")
        if self.quantize_vlm != "none":
            vlm = self.load_vlm()
            return vlm, vlm.tokenizer
        device, dtype = resolve_placement(self.device, self.dtype)
        return load_vlm_or_tokenizer(self.model or DEFAULT_VLM, device=device, dtype=dtype)

    def refuse(self, *names: str) -> None:
        """Refuse options that a command would ignore, rather than to ignore them.

        Raises:
            SoftDecodeError: one of them was given.
        """
        given = [name for name in names if getattr(self, name) not in (None, "none")]
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise SoftDecodeError(f"this command has no use for {options}; leave it out")

    def load_pipeline(self) -> SoftDecodePipeline:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UntrainedDecoderWarning)
            pipe = SoftDecodePipeline.from_pretrained(
                self.decoder,
                vlm=self.model or DEFAULT_VLM,
                base=self.base,
                device=self.device,
                dtype=self.dtype,
                offload=self.offload,
                quantize_vlm=self.quantize_vlm,
                quantize_base=self.quantize_base,
            )
        for warning in caught:
            if issubclass(warning.category, UntrainedDecoderWarning):
                print(f"softdecode: warning: {warning.message}", file=sys.stderr)
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return pipe

    def settings(self) -> dict[str, object]:
        return {name: None if value is None else str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the VLM draws; the model's own defaults where absent."""

    guidance_scale: float | None = None
    """Classifier-free guidance, >= 0; 1 is none."""
    temperature: float | None = None
    """>= 0; 0 takes the most probable token."""
    top_k: int | None = None
    """Tokens to draw from; 0 is all."""
    top_p: float | None = None
    """Draw from the most probable tokens with this share of the probability, in (0, 1]; 1 is all."""

    def over(self, defaults: SamplingConfig) -> SamplingConfig:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return SamplingConfig(**{**asdict(defaults), **given})


def check_positive(**values: int | None) -> None:
    """Refuse counts below 1, before any long work."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise SoftDecodeError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
