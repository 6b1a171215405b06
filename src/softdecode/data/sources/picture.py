"""From a picture file's bytes to the pixels that a model takes."""

from dataclasses import dataclass
from io import BytesIO

from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.images import open_picture, resize_and_crop, to_pixels

# Named, since among the formats that Pillow knows are some whose reading starts other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_VERSION = "1"  # raise it when the same bytes could give other pixels


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training picture.

    Attributes:
        key: its name in the source.
        number: its place in the pass or stream that gave it, counted from 0, unusable pictures included.
        image: [3, H, W] uint8.
        caption: None where the source has none.
    """

    key: str
    number: int
    image: Tensor
    caption: str | None


@dataclass(frozen=True)
class PictureTransform:
    """The preprocessing of the paper (sec. 5.1): resize the short side, bicubic, and crop the centre.

    A picture of exactly the size passes untouched. Every picture is turned upright by its EXIF orientation, 16 bits
    become 8 and transparency is composited on white.
    """

    size: tuple[int, int]
    """Height and width of the result."""
    allow_upscale: bool = False
    """Enlarge pictures that are smaller than `size`; otherwise they are refused."""

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise SoftDecodeError(f"pictures of {self.size[1]}×{self.size[0]} were asked for; expected 1 pixel or more")

    @property
    def identity(self) -> str:
        """Names everything that decides the pixels, for caches; it does not name the version of Pillow."""
        height, width = self.size
        upscale = "enlarged" if self.allow_upscale else "never-enlarged"
        return f"short-side-bicubic-centre-crop-{height}x{width}-{upscale}-v{_VERSION}"

    def __call__(self, data: bytes, name: str) -> Tensor:
        """Decode a picture file: [3, H, W] uint8.

        Args:
            data: the file's bytes.
            name: what to call it in messages.

        Raises:
            SoftDecodeError: not a whole picture, or one that is too small.
        """
        image = open_picture(BytesIO(data), name, FORMATS)
        height, width = self.size
        if (image.height, image.width) != self.size:
            if not self.allow_upscale and (image.height < height or image.width < width):
                raise SoftDecodeError(
                    f"{name} is {image.width}×{image.height} pixels, too small for {width}×{height}; allow_upscale "
                    "(--allow-upscale) would enlarge it"
                )
            image = resize_and_crop(image, self.size)
        return to_pixels(image).contiguous()
