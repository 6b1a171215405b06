"""Picture sets from folders and .npz files."""

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.image_sets import open_image_set
from softdecode.evaluation.sinks import write_npz
from softdecode.images import save_image, to_pil


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (5, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(pixels, tmp_path):
    names = ["b/2.png", "a/1.png", "a/10.png", "c.webp", "a/x.y.png"]
    for name, picture in zip(names, to_pil(pixels), strict=True):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "set" / name, lossless=True)
    (tmp_path / "set" / "notes.txt").write_text("not a picture")
    save_image(to_pil(pixels)[0], tmp_path / "set" / ".hidden" / "z.png")
    return tmp_path / "set"


def test_a_folders_pictures_come_in_the_order_of_their_names(folder, pixels):
    found = open_image_set(folder)
    assert found.names == ["a/1", "a/10", "a/x.y", "b/2", "c"]
    assert (len(found), found.size) == (5, (12, 10))
    assert torch.equal(found[0:5], pixels[[1, 2, 4, 0, 3]])
    assert torch.equal(found[1:3], pixels[[2, 4]])
    part = found.subset(["c", "a/1"])
    assert torch.equal(part[0:2], pixels[[3, 1]])


def test_a_digest_changes_with_contents_and_names(folder, pixels):
    first = open_image_set(folder).digest()
    assert open_image_set(folder).digest() == first
    (folder / "b" / "2.png").rename(folder / "b" / "3.png")
    renamed = open_image_set(folder).digest()
    to_pil(255 - pixels)[0].save(folder / "b" / "3.png")
    assert len({first, renamed, open_image_set(folder).digest()}) == 3


def test_sizes_that_differ_are_an_error_unless_one_is_asked_for(folder):
    Image.new("RGB", (20, 12), "red").save(folder / "d.png")
    with pytest.raises(SoftDecodeError, match=r"d\.png is 20×12 pixels, others are 10×12; say .* --resize"):
        open_image_set(folder)[0:6]
    found = open_image_set(folder, resize=8)
    assert found[0:6].shape == (6, 3, 8, 8)
    assert found.size == (8, 8)
    assert found[5:6].unique().tolist() == [0, 255], "a red picture stays red"


def test_resizing_takes_the_middle(tmp_path):
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    save_image(image, tmp_path / "a.png")
    (picture,) = open_image_set(tmp_path, resize=10)[0:1]
    assert (picture == torch.tensor([0, 0, 255]).view(3, 1, 1)).all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files_are_read_in_parts(tmp_path, pixels, save):
    save(tmp_path / "set.npz", pixels.permute(0, 2, 3, 1).numpy(), labels=np.arange(5))
    found = open_image_set(tmp_path / "set.npz")
    assert (len(found), found.size) == (5, (12, 10))
    assert torch.equal(found[0:5], pixels)
    assert torch.equal(found[3:4], pixels[3:4])


def test_uncompressed_npz_files_stay_on_the_disk(tmp_path, pixels):
    (tmp_path / "part.raw").write_bytes(pixels.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
    write_npz(tmp_path / "set.npz", [tmp_path / "part.raw"], (12, 10))
    found = open_image_set(tmp_path / "set.npz")
    assert isinstance(found._pixels, np.memmap)
    assert torch.equal(found[0:5], pixels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mu": np.zeros(3)}, "it holds mu.npy"),
        ({"arr_0": np.zeros((2, 4, 4, 3))}, r"arr_0 is float64 \[2, 4, 4, 3\], expected uint8"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"expected uint8 \[N, H, W, 3\]"),
        ({"arr_0": np.array([{}], dtype=object)}, "damaged, or no .npz"),
    ],
)
def test_other_npz_files_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "set.npz", **content)
    with pytest.raises(SoftDecodeError, match=message):
        open_image_set(tmp_path / "set.npz")


def test_what_is_no_picture_set_is_refused(tmp_path, pixels):
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    for name in ("one.png", "one.webp"):
        save_image(to_pil(pixels)[0], tmp_path / "twice" / name)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"nothing")
    np.savez(tmp_path / "fine.npz", pixels.permute(0, 2, 3, 1).numpy())
    cases = {"bad.npz": "is damaged", "none.npz": "cannot read", "empty": "no picture in", "none": "no picture in"}
    cases |= {"twice": "two pictures called one", "broken": "is not a picture"}
    for name, message in cases.items():
        with pytest.raises(SoftDecodeError, match=message):
            open_image_set(tmp_path / name)
    with pytest.raises(SoftDecodeError, match="npz files are not resized"):
        open_image_set(tmp_path / "fine.npz", resize=8)
