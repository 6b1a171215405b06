"""From files' bytes to pixels."""

import io
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.data.sources import PictureTransform
from softdecode.errors import SoftDecodeError
from softdecode.images import read_image, to_uint8

from .conftest import picture_bytes


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_a_picture_of_exactly_the_size_passes_untouched():
    pixels = noise(8, 6)
    found = PictureTransform((8, 6))(encoded(Image.fromarray(pixels)), "a")
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert torch.equal(found, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("size", [(31, 20), (20, 31), (9, 9)])
def test_resizing_and_cropping_are_those_of_read_image(tmp_path, size):
    data = encoded(Image.fromarray(noise(*size)))
    (tmp_path / "a.png").write_bytes(data)
    found = PictureTransform((8, 7))(data, "a")
    assert torch.equal(found, to_uint8(read_image(tmp_path / "a.png", (8, 7), resize=True)[None])[0])


def test_the_short_side_is_resized_and_the_centre_kept():
    """Left third red, middle green, right blue: of a wide picture a square crop shows the green."""
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    for third in range(3):
        pixels[:, 10 * third : 10 * third + 10, third] = 255
    found = PictureTransform((10, 10))(encoded(Image.fromarray(pixels)), "a")
    assert found[1].eq(255).all()
    assert found[[0, 2]].eq(0).all()


def test_exif_orientation_is_applied():
    """Orientation 6: the first row of the file is the right side."""
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    found = PictureTransform((8, 4))(encoded(Image.fromarray(pixels), exif=exif), "a")
    assert found[:, :, 3].eq(255).all()
    assert found[:, :, :3].eq(0).all()


def test_16_bit_grey_keeps_its_brightness():
    data = encoded(Image.fromarray(np.array([[0, 16384, 32768, 65535]], dtype=np.uint16)))
    assert PictureTransform((1, 4))(data, "a")[1, 0].tolist() == pytest.approx([0, 64, 128, 255], abs=1)


def test_transparency_is_composited_on_white():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(10, 20, 30, 255), (0, 0, 0, 0), (0, 0, 0, 51)])
    found = PictureTransform((1, 3))(encoded(image), "a")[:, 0].T.tolist()
    assert found == [[10, 20, 30], [255, 255, 255], [204, 204, 204]]


def test_small_pictures_are_refused_unless_enlarging_is_allowed():
    data = picture_bytes(9, (5, 20))
    with pytest.raises(SoftDecodeError, match="key is 5×20 pixels, too small for 6×6; allow_upscale"):
        PictureTransform((6, 6))(data, "key")
    assert PictureTransform((6, 6), allow_upscale=True)(data, "key").unique().tolist() == [7, 9, 246]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a picture"),
        (b"just text", "is not a picture"),
        (picture_bytes(1, (60, 60), "JPEG")[:400], "cannot read the picture"),
        (picture_bytes(1, (60, 60), "PNG")[:100], "cannot read the picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not a picture"),
    ],
    ids=["nothing", "text", "half a JPEG", "half a PNG", "a program"],
)
def test_what_is_no_whole_picture_is_refused(data, reason):
    with pytest.raises(SoftDecodeError, match=reason):
        PictureTransform((6, 6))(data, "key")


def test_damaged_bytes_end_in_nothing_but_our_error():
    """Whatever Pillow raises on a flipped byte, it is one kind of error or a picture."""
    rng = np.random.default_rng(0)
    for file_format in ("PNG", "JPEG", "WEBP"):
        whole = encoded(Image.fromarray(noise(9, 9)), file_format)
        for _ in range(150):
            data = bytearray(whole)
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            with suppress(SoftDecodeError):
                assert PictureTransform((4, 4))(bytes(data), "key").shape == (3, 4, 4)


def test_the_identity_names_what_decides_the_pixels():
    transforms = [
        PictureTransform((8, 8)),
        PictureTransform((8, 9)),
        PictureTransform((9, 8)),
        PictureTransform((8, 8), allow_upscale=True),
    ]
    assert len({transform.identity for transform in transforms}) == 4
    assert PictureTransform((8, 8)).identity == transforms[0].identity


def test_no_size_is_refused():
    with pytest.raises(SoftDecodeError, match="expected 1 pixel or more"):
        PictureTransform((0, 8))
