"""`softdecode export`: trained runs to the layout that the library ships."""

from dataclasses import dataclass
from pathlib import Path

from softdecode.cli.options import check_positive, parse
from softdecode.device import resolve_device, resolve_dtype
from softdecode.training.export import export_stack
from softdecode.training.presets import RUNS


@dataclass(frozen=True, kw_only=True)
class Export:
    """Collect the runs of `softdecode train` in one folder: half-precision weights, decoders, model card."""

    output: Path
    """Folder of the stack; replaced as a whole."""
    tokenizer: Path = RUNS / "tokenizer"
    """Run of the tokenizer."""
    vae: Path = RUNS / "vae"
    """Run of the VAE."""
    vlm: Path = RUNS / "vlm"
    """Run of the VLM."""
    decoder: Path = RUNS / "decoder"
    """Run of the decoders."""
    steps: int | None = None
    """Default denoising steps of the decoders, >= 1; as trained where absent."""
    noise_scale: float | None = None
    """Standard deviation of the decoders' initial noise, in [0, 2]; as trained (1) where absent."""
    dtype: str = "float16"
    """Of the stored weights."""

    def run(self) -> None:
        check_positive(steps=self.steps)
        runs = {"tokenizer": self.tokenizer, "vae": self.vae, "vlm": self.vlm, "decoder": self.decoder}
        export_stack(
            runs,
            self.output,
            steps=self.steps,
            noise_scale=self.noise_scale,
            dtype=resolve_dtype(self.dtype, resolve_device("cpu")),
        )
        size = sum(path.stat().st_size for path in self.output.rglob("*") if path.is_file())
        print(f"wrote {self.output}: {size / 1e6:.1f} MB")


def main(arguments: list[str]) -> None:
    parse(Export, "export", arguments).run()
