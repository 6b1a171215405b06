"""What a training job is told about the source of its pictures, besides where it is."""

from dataclasses import dataclass

from softdecode.data.sources.corrupt import CorruptPictures
from softdecode.data.sources.memory import Pictures, some_pictures
from softdecode.data.sources.options import SourceOptions
from softdecode.data.sources.source import PictureSource
from softdecode.training.jobs.job import Job
from softdecode.training.previews import PREVIEWED


@dataclass(frozen=True, kw_only=True)
class SourceJob(Job, SourceOptions):
    """A job whose pictures can come from a source, see docs/data.md."""

    corrupt_limit: float = 0.01
    """Largest share of a source's pictures that cannot be used; more of them stop the run. `unusable.jsonl` lists
    them."""
    preview_images: str | None = None
    """A source of pictures for previews (see --loop.preview-every), which training does not see. Where absent, previews
    show held-out emoji, or the first training pictures of a source."""

    def preview_pictures(self, size: tuple[int, int]) -> Pictures | None:
        """Those of previews; None where none are named, or there are no previews."""
        if self.preview_images is None or not self.loop.preview_every:
            return None
        return some_pictures(*self.open_source(self.preview_images, size, self.fitting(self.preview_images)), PREVIEWED)

    def open_source(
        self, spec: str, size: tuple[int, int], options: SourceOptions | None = None
    ) -> tuple[PictureSource, CorruptPictures]:
        """The source, whose pictures are brought to `size` (height, width), and the account of unusable ones.

        Args:
            spec: see `data.sources.open_source`.
            size: of the pictures.
            options: how it is read; as the job says where None.
        """
        with self.processes.main_process_first():  # where it is fetched first, one process does it
            source = (options or self).open(spec, size)
        return source, CorruptPictures(self.output / "unusable.jsonl", limit=self.corrupt_limit)
