"""What a job is told of its source reaches the source."""

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from softdecode.errors import SoftDecodeError
from softdecode.training.config import LoopConfig
from softdecode.training.jobs.sources import SourceJob


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A function from options to a job; digests are remembered below the test's folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return lambda **options: SourceJob(output=tmp_path / "run", loop=LoopConfig(steps=1), device="cpu", **options)


@pytest.fixture
def animals(tmp_path):
    """A folder with a folder for each class, one picture too small in it."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for size in (8, 20):
            Image.new("RGB", (size, size), (number, 0, 0)).save(tmp_path / "animals" / name / f"{size}.png")
    return str(tmp_path / "animals")


def test_folder_names_can_be_the_captions(job, animals):
    source, corrupt = job(caption_from="folder", read_threads=2).open_source(animals, (16, 16))
    assert [sample.caption for sample in source.samples(corrupt)] == ["cat", "dog"]
    plain, corrupt = job().open_source(animals, (16, 16))
    assert [sample.caption for sample in plain.samples(corrupt)] == [None, None]


def test_small_pictures_are_listed_in_the_runs_folder_unless_they_may_be_enlarged(job, animals, tmp_path):
    source, corrupt = job().open_source(animals, (16, 16))
    assert len(list(source.samples(corrupt))) == 2
    assert corrupt.path == tmp_path / "run" / "unusable.jsonl"
    assert "too small" in corrupt.path.read_text()
    source, corrupt = job(allow_upscale=True).open_source(animals, (16, 16))
    assert len(list(source.samples(corrupt))) == 4


def test_the_limit_is_the_jobs(job, animals):
    _, corrupt = job(corrupt_limit=0.25).open_source(animals, (16, 16))
    assert corrupt.limit == 0.25


@pytest.mark.parametrize(("every", "count"), [(3, 2), (0, None)])
def test_pictures_for_previews_are_a_source_of_their_own(tmp_path, job, animals, every, count):
    loop = LoopConfig(steps=1, preview_every=every)
    shown = SourceJob(output=tmp_path, loop=loop, preview_images=animals).preview_pictures((16, 16))
    assert (None if shown is None else len(shown)) == count
    assert job().preview_pictures((16, 16)) is None


def test_columns_of_a_dataset(job, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "before": datasets.Image(),
            "after": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    pictures = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (10, 20)]
    rows = {"before": pictures[:1], "after": pictures[1:], "kind": [1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    spec = f"hf:{tmp_path / 'set'}"
    source, corrupt = job(image_column="after", caption_column="kind").open_source(spec, (4, 4))
    (sample,) = source.samples(corrupt)
    assert (sample.caption, sample.image[0, 0, 0].item()) == ("dog", 20)
    with pytest.raises(SoftDecodeError, match="2 columns of pictures"):
        job().open_source(spec, (4, 4))


def test_options_that_the_source_has_no_use_for_are_refused(job, animals):
    with pytest.raises(SoftDecodeError, match="without caption_column"):
        job(caption_column="kind").open_source(animals, (16, 16))
    with pytest.raises(SoftDecodeError, match="0 threads"):
        job(read_threads=0).open_source(animals, (16, 16))


def test_pictures_for_previews_may_be_of_another_form(job, animals, tmp_path):
    """What the training pictures need, columns or folders' names, their form may have no use for."""
    with tarfile.open(tmp_path / "v.tar", "w") as tar:
        tar.add(Path(animals) / "cat" / "20.png", "a.png")
    loop = LoopConfig(steps=1, preview_every=3)
    options = {"caption_from": "folder", "allow_upscale": True}
    made = SourceJob(output=tmp_path, loop=loop, preview_images=str(tmp_path / "v.tar"), **options)
    assert made.preview_pictures((16, 16)).captions == (None,)
    made = SourceJob(output=tmp_path, loop=loop, preview_images=animals, **options)
    assert made.preview_pictures((16, 16)).captions == ("cat", "cat", "dog", "dog")
    made = SourceJob(output=tmp_path, loop=loop, preview_images=animals, caption_column="label")
    assert made.preview_pictures((16, 16)).captions == (None, None)
