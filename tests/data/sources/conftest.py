"""Tiny pictures, each of one colour that tells its number, and the same ones in every kind of source."""

import io
import tarfile

import pytest
from PIL import Image

from softdecode.data.sources import CorruptPictures, PictureTransform

DAMAGED = 4
"""The number of the picture that cannot be read, of those made by `pictures`."""


def picture_bytes(number, size=(6, 5), format="PNG", **options):
    """A picture file of one colour, `size` (width, height)."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number, 255 - number, 7)).save(buffer, format, **options)
    return buffer.getvalue()


def pictures(count, damaged=(DAMAGED,)):
    """`count` picture files; the damaged ones are cut in half."""
    files = [picture_bytes(number) for number in range(count)]
    return [data[: len(data) // 2] if number in damaged else data for number, data in enumerate(files)]


def write_tar(path, samples):
    """A webdataset tar of samples (key, {suffix: bytes})."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, files in samples:
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def write_folder(root, files):
    root.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(files):
        (root / f"{number:03}.png").write_bytes(data)
        (root / f"{number:03}.txt").write_text(f"picture {number}\n")
    return str(root)


def write_tars(root, files, each=5):
    samples = [(f"{i:03}", {"png": data, "txt": f"picture {i}".encode()}) for i, data in enumerate(files)]
    for shard, start in enumerate(range(0, len(files), each)):
        write_tar(root / f"s-{shard:02}.tar", samples[start : start + each])
    return str(root)


def dataset_of(files):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    examples = {
        "image": [{"bytes": data, "path": None} for data in files],
        "text": [f"picture {number}" for number in range(len(files))],
    }
    return datasets.Dataset.from_dict(examples, features=features)


def write_parquet(root, files, parts=3):
    """A folder of parquet files."""
    root.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        path = root / f"train-{part:05}-of-{parts:05}.parquet"
        dataset_of(files).shard(parts, part, contiguous=True).to_parquet(path)
    return str(root)


def write_saved(root, files):
    dataset_of(files).save_to_disk(root)
    return str(root)


WRITERS = {
    "folder": write_folder,
    "tars": write_tars,
    "hf:parquet": write_parquet,
    "hf:saved": write_saved,
    "hf-stream:parquet": write_parquet,
    "hf-stream:saved": write_saved,
}


@pytest.fixture(params=WRITERS)
def make_spec(request, tmp_path):
    """A function from picture files to the spec of a source of them, for every kind of source."""
    prefix = request.param.partition(":")[0] + ":" if ":" in request.param else ""
    return lambda files, name="pictures": prefix + WRITERS[request.param](tmp_path / name, files)


@pytest.fixture
def corrupt(tmp_path):
    return CorruptPictures(tmp_path / "unusable.jsonl", minimum=1000)


@pytest.fixture
def options(tmp_path):
    """What every source is opened with."""
    return {"transform": PictureTransform((5, 6)), "cache": tmp_path / "cache"}


@pytest.fixture(autouse=True)
def quiet_library(tmp_path, monkeypatch):
    """The datasets library keeps its files below the test's folder and shows no progress."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
