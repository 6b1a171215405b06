"""The pictures that a training job is taught by."""

from dataclasses import dataclass

from torch import Tensor

from softdecode.data.emoji import EmojiData
from softdecode.data.sources.memory import Pictures, load_pictures
from softdecode.training.augment import Augmentation
from softdecode.training.jobs.job import EmojiJob
from softdecode.training.jobs.sources import SourceJob
from softdecode.training.previews import PREVIEWED


@dataclass(frozen=True, kw_only=True)
class PictureJob(EmojiJob, SourceJob):
    """A job that is taught by pictures, held in memory: the emoji, or those of a source."""

    images: str | None = None
    """A folder of pictures, .tar files as train-{000..127}.tar, hf:NAME or hf-stream:NAME (see docs/data.md); the emoji
    of the training split where absent."""
    image_size: int = 64
    """Side in pixels: the short side of a source's pictures is resized to it, and the centre cropped."""
    augmentation: Augmentation | None = None
    """none, mirror (half of the pictures) or emoji (mirrored, shifted on white, colours permuted); where absent, emoji
    for the emoji and mirror for a source."""

    def pictures(self) -> Pictures:
        """The training pictures [M, 3, H, W] with names and captions; the first `limit` of them."""
        if self.images is None:
            if self.preview_images is None:
                self.refuse_without_source()
            return _pictures_of(self.emoji())
        source, corrupt = self.open_source(self.images, (self.image_size, self.image_size))
        return load_pictures(source, corrupt, self.limit)

    def shown(self) -> Pictures | None:
        """The pictures of previews: as named, or held-out emoji; None where there are none such, or no previews."""
        if self.preview_images is not None or self.images is not None:
            return self.preview_pictures((self.image_size, self.image_size))
        if not self.loop.preview_every:
            return None
        held_out = _pictures_of(self.emoji("test"))
        return held_out.spread(PREVIEWED) if len(held_out) else None

    def shown_images(self) -> Tensor | None:
        """The same without names and captions: [P, 3, H, W] uint8."""
        shown = self.shown()
        return None if shown is None else shown.images

    @property
    def changes(self) -> Augmentation:
        """The augmentation of these pictures."""
        if self.augmentation is not None:
            return self.augmentation
        return "emoji" if self.images is None else "mirror"


def _pictures_of(data: EmojiData) -> Pictures:
    return Pictures(
        images=data.images,
        keys=tuple(f"{emoji.style}/{emoji.code}" for emoji in data.emoji),
        captions=tuple(emoji.caption for emoji in data.emoji),
        digest=data.digest,
    )
