"""Between picture files and tensors."""

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.errors import SoftDecodeError
from softdecode.images import from_pil, read_image, save_image, to_pil, to_uint8, to_unit_range


def random_picture(height=12, width=16, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


# --- ranges -------------------------------------------------------------------------------------------------------


def test_every_byte_survives_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    unit = to_unit_range(every)
    assert unit.dtype == torch.float32
    assert (unit.min().item(), unit.max().item()) == (-1.0, 1.0)
    assert torch.equal(to_uint8(unit), every)


def test_values_are_rounded_and_clamped():
    values = torch.tensor([-3.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 0.0, 1.0, 7.0]).view(1, 1, 1, 7)
    assert to_uint8(values).flatten().tolist() == [0, 0, 0, 1, 128, 255, 255]
    assert torch.equal(to_uint8(values.bfloat16()), to_uint8(values.bfloat16().float()))


# --- Pillow -------------------------------------------------------------------------------------------------------


def test_pictures_keep_rows_columns_and_channels():
    picture = random_picture()
    tensor = from_pil(Image.fromarray(picture))
    assert tensor.shape == (3, 12, 16)
    assert torch.equal(to_uint8(tensor[None])[0], torch.from_numpy(picture).permute(2, 0, 1))
    (back,) = to_pil(to_uint8(tensor[None]))
    assert back.mode == "RGB"
    assert np.array_equal(np.asarray(back), picture)


def test_transparency_is_composited_on_white():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(10, 20, 30, 255), (0, 0, 0, 0), (0, 0, 0, 51)])
    pixels = to_uint8(from_pil(image)[None])[0, :, 0].T.tolist()
    assert pixels == [[10, 20, 30], [255, 255, 255], [204, 204, 204]]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "I;16"])
def test_pictures_of_other_modes_become_rgb(mode):
    image = Image.new(mode, (4, 4))
    tensor = from_pil(image)
    assert tensor.shape == (3, 4, 4)
    assert torch.equal(tensor[0], tensor[1])


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp"])
def test_files_are_read_as_they_are(tmp_path, suffix):
    picture = random_picture()
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(picture).save(tmp_path / f"a.{suffix}", **options)
    found = read_image(tmp_path / f"a.{suffix}", (12, 16))
    assert torch.equal(to_uint8(found[None])[0], torch.from_numpy(picture).permute(2, 0, 1))


def test_a_transparent_palette_is_composited_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 1, 2, 3])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=1)
    pixels = to_uint8(read_image(tmp_path / "a.png", (1, 2))[None])[0, :, 0].T.tolist()
    assert pixels == [[9, 8, 7], [255, 255, 255]]


def test_16_bit_grey_keeps_its_brightness(tmp_path):
    Image.fromarray(np.array([[0, 16384, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    pixels = to_uint8(read_image(tmp_path / "a.png", (1, 4))[None])[0, 0, 0].tolist()
    assert pixels == pytest.approx([0, 64, 128, 255], abs=1)


def test_another_size_is_refused_unless_resizing_is_allowed(tmp_path):
    Image.fromarray(random_picture()).save(tmp_path / "a.png")
    with pytest.raises(SoftDecodeError, match="is 16×12 pixels, the model takes 8×6; resize it, or allow it"):
        read_image(tmp_path / "a.png", (6, 8))
    assert read_image(tmp_path / "a.png", (6, 8), resize=True).shape == (3, 6, 8)


@pytest.mark.parametrize("size", [(50, 20), (20, 50), (7, 9), (64, 65), (1, 300)])
def test_resizing_keeps_the_proportions_and_the_centre(tmp_path, size):
    """A picture whose colour is its place: after resizing, the centre's colours are in the centre."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    Image.fromarray(np.stack([x, y, 0 * x], -1).round().astype(np.uint8)).save(tmp_path / "a.png")
    found = to_uint8(read_image(tmp_path / "a.png", (16, 16), resize=True)[None])[0].float()
    assert found.shape == (3, 16, 16)
    short = min(width, height)
    for channel, length in ((0, width), (1, height)):
        if length == 1:
            continue
        # The crop shows the middle `short` of `length` pixels, whose colours run from 0 to 255.
        profile = found[channel].mean(0 if channel == 0 else 1)
        shown = 255 * short / length
        assert profile.mean().item() == pytest.approx(127.5, abs=255 / 16)
        assert (profile[-1] - profile[0]).item() == pytest.approx(shown * 15 / 16, abs=255 / 10)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "empty.png"):
        with pytest.raises(SoftDecodeError, match="is not a picture that can be read; expected PNG, JPEG or WebP"):
            read_image(tmp_path / name, (4, 4))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_half_a_picture_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(random_picture(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SoftDecodeError, match="cannot read the picture"):
        read_image(path, (64, 64))


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(SoftDecodeError, match="No such file or directory"):
        read_image(tmp_path / "nothing.png", (4, 4))
    with pytest.raises(SoftDecodeError, match="Is a directory"):
        read_image(tmp_path, (4, 4))


def test_a_picture_of_far_too_many_pixels_is_refused(tmp_path, monkeypatch):
    Image.fromarray(random_picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 16 // 3)
    with pytest.raises(SoftDecodeError, match="cannot read the picture"):
        read_image(tmp_path / "a.png", (12, 16))


def test_a_saved_picture_can_be_read(tmp_path):
    picture = random_picture()
    save_image(Image.fromarray(picture), tmp_path / "new" / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_picture_that_cannot_be_saved_leaves_the_old_one(tmp_path, monkeypatch):
    save_image(Image.fromarray(random_picture()), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def full(_image, path, **_options):
        path.write_bytes(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SoftDecodeError, match="No space left on device"):
        save_image(Image.fromarray(random_picture(seed=1)), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
