"""Pictures of a source, and the captions that come with them."""

import torch
from PIL import Image

from softdecode.data.sources import SourceOptions
from softdecode.evaluation.pictures import source_pictures


def test_pictures_and_captions_of_any_part(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for number in range(7):
        folder = tmp_path / "pictures" / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    options = SourceOptions(caption_from="folder")
    found = source_pictures(str(tmp_path / "pictures"), (8, 8), tmp_path, options=options)
    assert len(found.images) == 7
    for part in (slice(0, 3), slice(3, 7), slice(2, 5), slice(0, 3)):
        shades = [0, 2, 4, 6, 1, 3, 5][part]
        assert found.images[part][:, 0, 0, 0].tolist() == shades
        assert found.captions[part] == ["odd" if shade % 2 else "even" for shade in shades]
    assert torch.equal(found.images[0:7][2:5], found.images[2:5])
    assert found.labels([0, 5]) == ["0", "5"]


def test_pictures_without_captions_have_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert source_pictures(str(tmp_path), (8, 8), tmp_path / "out").captions[0:1] == [None]
