"""How a source of pictures is read, as commands and jobs are told it."""

from dataclasses import dataclass, fields
from pathlib import Path

from softdecode.data.sources.folder import CaptionFrom
from softdecode.data.sources.open import is_tar_folder, open_source
from softdecode.data.sources.picture import PictureTransform
from softdecode.data.sources.source import PictureSource
from softdecode.errors import SoftDecodeError


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What `open_source` is told besides the place and the transform."""

    allow_upscale: bool = False
    """Enlarge a source's pictures that are smaller than the model's; else they cannot be used."""
    caption_from: CaptionFrom = "text"
    """Captions of a folder of pictures: text is NAME.txt beside NAME.jpg, folder the name of the folder they lie in."""
    caption_column: str | None = None
    """Column of captions (text or classes) of a Hugging Face dataset, where its name does not tell."""
    image_column: str | None = None
    """Column of pictures of a Hugging Face dataset, where there are several."""
    read_threads: int = 4
    """Pictures of a source that are decoded at once, >= 1; it changes the speed, not the order."""

    def open(self, spec: str, size: tuple[int, int]) -> PictureSource:
        """The source, whose pictures are brought to `size` (height, width); see `open_source`."""
        return open_source(
            spec,
            transform=PictureTransform(size, self.allow_upscale),
            caption_column=self.caption_column,
            image_column=self.image_column,
            caption_from=self.caption_from,
            threads=self.read_threads,
        )

    def fitting(self, spec: str) -> "SourceOptions":
        """The same for another source, without what sources of its form have no use for."""
        path = Path(spec).expanduser()
        hub = spec.partition(":")[0] in ("hf", "hf-stream")
        named = not hub and path.is_dir() and not is_tar_folder(path)
        return SourceOptions(
            allow_upscale=self.allow_upscale,
            caption_from=self.caption_from if named else "text",
            caption_column=self.caption_column if hub else None,
            image_column=self.image_column if hub else None,
            read_threads=self.read_threads,
        )

    def refuse_without_source(self) -> None:
        """Refuse options that would change nothing, where no source is given.

        Raises:
            SoftDecodeError: one was given.
        """
        given = [field.name for field in fields(SourceOptions) if getattr(self, field.name) != field.default]
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise SoftDecodeError(f"{options}: the emoji have no use for that; leave it out, or name --images")
