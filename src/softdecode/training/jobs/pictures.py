"""The pictures that a training job is taught by."""

from dataclasses import dataclass

from softdecode.data.sources.corrupt import CorruptPictures
from softdecode.data.sources.memory import Pictures, load_pictures
from softdecode.data.sources.open import open_source
from softdecode.data.sources.picture import PictureTransform
from softdecode.training.augment import Augmentation
from softdecode.training.jobs.job import EmojiJob


@dataclass(frozen=True, kw_only=True)
class PictureJob(EmojiJob):
    """A job that is taught by pictures, held in memory: the emoji, or those of a source."""

    images: str | None = None
    """A folder of pictures, .tar files as train-{000..127}.tar, hf:NAME or hf-stream:NAME (see docs/data.md); the emoji
    of the training split where absent."""
    image_size: int = 64
    """Side in pixels: the short side of a source's pictures is resized to it, and the centre cropped."""
    allow_upscale: bool = False
    """Enlarge smaller pictures of a source; otherwise they are left out, and listed."""
    corrupt_limit: float = 0.01
    """Largest share of pictures that cannot be used; more of them stop the run. `unusable.jsonl` lists them."""
    augmentation: Augmentation | None = None
    """none, mirror (half of the pictures) or emoji (mirrored, shifted on white, colours permuted); where absent, emoji
    for the emoji and mirror for a source."""

    def pictures(self) -> Pictures:
        """The training pictures [M, 3, H, W] with names and captions; the first `limit` of them."""
        if self.images is None:
            data = self.emoji()
            return Pictures(
                images=data.images,
                keys=tuple(f"{emoji.style}/{emoji.code}" for emoji in data.emoji),
                captions=tuple(emoji.caption for emoji in data.emoji),
                digest=data.digest,
            )
        transform = PictureTransform((self.image_size, self.image_size), allow_upscale=self.allow_upscale)
        with self.processes.main_process_first():  # it digests the files, the others read the digests
            source = open_source(self.images, transform=transform)
            corrupt = CorruptPictures(self.output / "unusable.jsonl", limit=self.corrupt_limit)
            return load_pictures(source, corrupt, self.limit)

    @property
    def changes(self) -> Augmentation:
        """The augmentation of these pictures."""
        if self.augmentation is not None:
            return self.augmentation
        return "emoji" if self.images is None else "mirror"
