"""`softdecode reconstruct`: picture files through the tokenizer and back, both ways."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from softdecode.cli.options import ModelOptions, check_positive, parse
from softdecode.errors import SoftDecodeError
from softdecode.files import staged_files, write_json
from softdecode.images import read_image, save_image, to_pil, to_uint8
from softdecode.progress import progress_bars
from softdecode.provenance import provenance
from softdecode.sheet import contact_sheet


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Encode pictures with the VLM's tokenizer and decode them again: with its VQ decoder, and softly.

    Writes NAME-vq.png and NAME-soft.png for each picture, comparison.png and result.json.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Picture files of the tokenizer's size (the embedded one's is 64×64)."""
    output: Path = Path("outputs/reconstruct")
    """Folder for the pictures."""
    prompts: tuple[str, ...] = ()
    """What each picture shows, for decoders that were trained on the VLM's own beliefs."""
    resize: bool = False
    """Resize and centre-crop pictures of another size."""
    seed: int = 0
    """Seed of the first picture's noise; the others count on from it."""
    steps: int | None = None
    """Denoising steps, >= 1; the decoder's own number where absent."""
    json: bool = False
    """Print result.json instead of progress."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)

    def run(self) -> None:
        check_positive(steps=self.steps)
        if not self.images:
            raise SoftDecodeError("no picture given; name at least one file")
        names = [path.stem for path in self.images]
        if self.prompts and len(self.prompts) != len(names):
            raise SoftDecodeError(f"{len(names)} pictures need as many --prompts, or none, got {len(self.prompts)}")
        doubles = {name for name in names if names.count(name) > 1}
        if doubles:
            raise SoftDecodeError(
                f"several pictures are called {min(doubles)!r}; their results would overwrite each other"
            )
        pipe = self.models.load_pipeline()
        size = pipe.vlm.tokenizer.image_size
        batch = torch.stack([read_image(path, size, resize=self.resize) for path in self.images])
        with progress_bars(self.json) as bars:
            result = pipe.reconstruct(
                batch,
                prompts=self.prompts or None,
                seed=self.seed,
                num_inference_steps=self.steps,
                on_progress=lambda _s, d, t: bars("denoising", d, t),
            )
        assert isinstance(result.images, list)
        assert isinstance(result.vq_images, list)
        record = {
            "command": "reconstruct",
            "images": [str(path) for path in self.images],
            "prompts": list(self.prompts),
            "resize": self.resize,
            "seeds": list(range(self.seed, self.seed + len(names))),
            "steps": self.steps or pipe.decoder.config.steps,
            "models": {**self.models.settings(), "trained": pipe.decoder.config.trained},
            "provenance": provenance(),
        }
        rows = list(zip(to_pil(to_uint8(batch)), result.vq_images, result.images, strict=True))
        with staged_files(self.output) as folder:
            for name, (_original, vq, soft) in zip(names, rows, strict=True):
                save_image(vq, folder / f"{name}-vq.png")
                save_image(soft, folder / f"{name}-soft.png")
            save_image(
                contact_sheet(["original", "VQ decoder", "soft decoder"], names, rows), folder / "comparison.png"
            )
            write_json(folder / "result.json", record)
        print(json.dumps(record) if self.json else f"wrote {len(names)} pairs and comparison.png to {self.output}")


def main(arguments: list[str]) -> None:
    parse(Reconstruct, "reconstruct", arguments).run()
