"""`softdecode convert-llamagen`: the authors' checkpoint files to a model folder."""

from dataclasses import dataclass
from pathlib import Path

from softdecode.cli.options import check_positive, parse
from softdecode.vlm.llamagen.checkpoint import convert_llamagen


@dataclass(frozen=True, kw_only=True)
class ConvertLlamaGen:
    """Read LlamaGen's checkpoints, which are single files, and write a folder for --model: safetensors and a config."""

    gpt: Path
    """The transformer's checkpoint, such as t2i_XL_stage1_256.pt or c2i_L_256.pt."""
    vq: Path
    """The tokenizer's checkpoint, such as vq_ds16_t2i.pt."""
    output: Path
    """Folder to write; replaced as a whole."""
    captions: str | None = None
    """For caption models: flan-T5's folder, which is copied, or its hub id (google/flan-t5-xl)."""
    image_size: int = 256
    """Side of the pictures in pixels."""
    heads: int | None = None
    """Attention heads, where the transformer is of none of the published sizes."""

    def run(self) -> None:
        check_positive(heads=self.heads, image_size=self.image_size)
        convert_llamagen(
            self.gpt, self.vq, self.output, captions=self.captions, image_size=self.image_size, heads=self.heads
        )
        print(f"wrote {self.output}; use it as --model {self.output}")


def main(arguments: list[str]) -> None:
    parse(ConvertLlamaGen, "convert-llamagen", arguments).run()
