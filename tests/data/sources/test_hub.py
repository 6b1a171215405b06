"""Hugging Face datasets."""

import sys

import pytest

from softdecode.data.sources import hub_open, open_source
from softdecode.data.sources.hub import HubSource, HubStreamSource
from softdecode.data.sources.hub_open import HubName, find_columns
from softdecode.errors import SoftDecodeError

from .conftest import dataset_of, picture_bytes, pictures, write_parquet, write_saved

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name@v1", ("owner/name", "v1", "train")),
        ("owner/name#test", ("owner/name", None, "test")),
        ("owner/name@v1#test[:10]", ("owner/name", "v1", "test[:10]")),
    ],
)
def test_names_have_a_revision_and_a_split(text, expected):
    found = HubName.parse(text)
    assert (found.name, found.revision, found.split) == expected


def test_a_path_that_exists_is_taken_as_it_is(tmp_path):
    (tmp_path / "a@b#c").mkdir()
    assert HubName.parse(str(tmp_path / "a@b#c")).path == tmp_path / "a@b#c"
    found = HubName.parse(str(tmp_path / "a@b#c") + "#test")
    assert (found.path, found.split) == (tmp_path / "a@b#c", "test")


def test_no_name_is_refused(options):
    for text in ("", "@v1", "#test"):
        with pytest.raises(SoftDecodeError, match="names no dataset"):
            HubName.parse(text)


# --- columns ------------------------------------------------------------------------------------------------------

TEXT, PICTURE, KIND = datasets.Value("string"), datasets.Image(), datasets.ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize(
    ("features", "named", "expected"),
    [
        ({"jpg": PICTURE, "caption": TEXT}, (None, None), ("jpg", "caption", None)),
        ({"jpg": PICTURE, "title": TEXT}, (None, None), ("jpg", "title", None)),
        ({"jpg": PICTURE, "url": TEXT, "prompt": TEXT}, (None, None), ("jpg", "prompt", None)),
        ({"jpg": PICTURE, "url": TEXT, "title": TEXT}, (None, None), ("jpg", None, None)),
        ({"jpg": PICTURE, "label": KIND}, (None, None), ("jpg", None, None)),
        ({"jpg": PICTURE, "label": KIND}, (None, "label"), ("jpg", "label", ["cat", "dog"])),
        ({"a": PICTURE, "b": PICTURE, "text": TEXT, "t": TEXT}, ("b", "t"), ("b", "t", None)),
    ],
)
def test_columns_are_found_by_type_or_named(features, named, expected):
    found = find_columns(datasets.Features(features), *named)
    assert (found.image, found.caption, found.classes) == expected


@pytest.mark.parametrize(
    ("features", "named", "reason"),
    [
        ({"text": TEXT}, (None, None), "has 0 columns of pictures"),
        ({"a": PICTURE, "b": PICTURE}, (None, None), r"has 2 columns of pictures, name one of: a \(Image\), b"),
        ({"a": PICTURE, "text": TEXT}, ("text", None), "no column of pictures called text"),
        ({"a": PICTURE, "n": datasets.Value("int64")}, (None, "n"), "no column of text or classes called n"),
        ({"a": PICTURE}, (None, "b"), "no column of text or classes called b"),
    ],
)
def test_columns_that_are_not_there_are_refused(features, named, reason):
    with pytest.raises(SoftDecodeError, match=reason):
        find_columns(datasets.Features(features), *named)


# --- local datasets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_classes_are_captions_where_they_are_named(tmp_path, corrupt, options, kind):
    features = datasets.Features({"image": PICTURE, "label": KIND})
    examples = {"image": [{"bytes": picture_bytes(i), "path": None} for i in range(3)], "label": [1, 0, -1]}
    datasets.Dataset.from_dict(examples, features=features).to_parquet(tmp_path / "a.parquet")
    source = open_source(f"{kind}:{tmp_path}/a.parquet", caption_column="label", **options)
    assert [sample.caption for sample in source.samples(corrupt)] == ["dog", "cat", None]
    unnamed = open_source(f"{kind}:{tmp_path}/a.parquet", **options)
    assert [sample.caption for sample in unnamed.samples(corrupt)] == [None] * 3
    assert unnamed.identity != source.identity


def test_a_split_can_be_a_part(tmp_path, corrupt, options):
    spec = write_parquet(tmp_path / "a", pictures(6, ()))
    part = open_source(f"hf:{spec}#train[1:3]", **options)
    assert [sample.caption for sample in part.samples(corrupt)] == ["picture 1", "picture 2"]
    assert part.identity != open_source(f"hf:{spec}", **options).identity
    file = next((tmp_path / "a").iterdir())
    assert len(open_source(f"hf:{file}#train[:1]", **options)) == 1


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_a_split_of_several_is_chosen(tmp_path, corrupt, options, kind):
    both = datasets.DatasetDict(train=dataset_of(pictures(3, ())), test=dataset_of(pictures(2, ())))
    both.save_to_disk(tmp_path / "saved")
    for split, count in (("train", 3), ("test", 2)):
        source = open_source(f"{kind}:{tmp_path}/saved#{split}", **options)
        assert len(list(source.samples(corrupt))) == count
    with pytest.raises(SoftDecodeError, match="has no split dev; it has train, test"):
        open_source(f"{kind}:{tmp_path}/saved#dev", **options)


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_an_example_without_a_picture_is_listed(tmp_path, corrupt, options, kind):
    features = datasets.Features({"image": PICTURE})
    here = tmp_path / "here.png"
    here.write_bytes(picture_bytes(3))
    examples = [None, {"bytes": None, "path": "/nowhere/a.png"}, {"bytes": None, "path": str(here)}]
    table = pyarrow.Table.from_pylist([{"image": example} for example in examples], features.arrow_schema)
    parquet.write_table(table, tmp_path / "a.parquet")
    source = open_source(f"{kind}:{tmp_path}/a.parquet", **options)
    assert [sample.number for sample in source.samples(corrupt)] == [2]
    listed = corrupt.path.read_text()
    assert "the column image is empty" in listed
    assert "there is no local file /nowhere/a.png" in listed


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_what_cannot_be_opened_is_one_line(tmp_path, options, kind):
    (tmp_path / "bad.parquet").write_text("hello")
    (tmp_path / "empty").mkdir()
    for place in ("bad.parquet", "empty"):
        with pytest.raises(SoftDecodeError, match="dataset"):
            open_source(f"{kind}:{tmp_path}/{place}", **options)
    spec = write_parquet(tmp_path / "good", pictures(3))
    with pytest.raises(SoftDecodeError, match="has no revision v1; leave it out"):
        open_source(f"{kind}:{spec}@v1", **options)


def test_a_dataset_without_examples_is_refused(tmp_path, options):
    spec = write_parquet(tmp_path / "a", pictures(3))
    with pytest.raises(SoftDecodeError, match="corresponds to no data"):
        HubSource(f"{spec}#train[:0]", **options)
    empty = tmp_path / "b.parquet"
    parquet.write_table(datasets.Features({"image": PICTURE}).arrow_schema.empty_table(), empty)
    for source in (HubSource, HubStreamSource):
        with pytest.raises(SoftDecodeError, match=r"the dataset .*b.parquet"):
            source(str(empty), **options)


def test_more_processes_than_examples_are_refused(tmp_path, corrupt, options):
    source = HubStreamSource(write_parquet(tmp_path / "few", pictures(2, ()), parts=1), **options)
    with pytest.raises(SoftDecodeError, match="no example for process 2 of 3"):
        next(source.stream(corrupt, seed=1, rank=2, world=3))


def test_two_streams_of_one_source_do_not_disturb_each_other(tmp_path, corrupt, options):
    source = HubStreamSource(write_parquet(tmp_path / "a", pictures(9)), **options, block_size=2)
    alone = [sample.key for sample, _ in zip(source.stream(corrupt, seed=1), range(16), strict=False)]
    one, two = source.stream(corrupt, seed=1), source.stream(corrupt, seed=2)
    mixed = [(next(one).key, next(two).key, next(iter(source.samples(corrupt))).key) for _ in range(16)]
    assert [key for key, _, _ in mixed] == alone


def test_a_missing_library_is_named(tmp_path, options, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SoftDecodeError, match=r"install softdecode\[train\]"):
        open_source("hf:owner/name", **options)


def test_what_the_library_writes_beside_the_data_is_no_content(tmp_path, options):
    spec = write_saved(tmp_path / "saved", pictures(3))
    first = open_source(f"hf:{spec}", **options).identity
    for name in ("cache-0123.arrow", ".hidden", "data.lock"):
        (tmp_path / "saved" / name).write_text("by-product")
    assert open_source(f"hf:{spec}", **options).identity == first
    (tmp_path / "saved" / "data-00001.arrow").write_text("data")
    assert open_source(f"hf:{spec}", **options).identity != first


# --- the hub ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one dataset, whose revision "main" means a commit; keeps what the library was asked for."""
    asked = []
    spec = write_parquet(tmp_path / "on-the-hub", pictures(4, ()))
    load = datasets.load_dataset

    class Api:
        def dataset_info(self, name, revision=None):
            if name != "owner/name" or revision not in (None, "main"):
                raise OSError("404 Not Found\nmore lines")
            return type("Info", (), {"sha": COMMIT})

    def load_dataset(name, *, revision, **options):
        asked.append((name, revision))
        return load(spec, **options)

    monkeypatch.setattr(hub_open, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_a_hub_dataset_is_read_at_the_commit_that_it_has_now(hub, corrupt, options, kind):
    source = open_source(f"{kind}:owner/name", **options)
    assert hub == [("owner/name", COMMIT)]
    assert len(list(source.samples(corrupt))) == 4
    pinned = open_source(f"{kind}:owner/name@{COMMIT}", **options)
    assert pinned.identity == source.identity
    other = open_source(f"{kind}:owner/name@{COMMIT[::-1]}", **options)
    assert other.identity != source.identity


def test_what_the_hub_does_not_know_is_named(hub, options):
    with pytest.raises(SoftDecodeError, match=r"which commit owner/other@main is \(404 Not Found\); check the name"):
        open_source("hf:owner/other", **options)
    with pytest.raises(SoftDecodeError, match="which commit owner/name@v9 is"):
        open_source("hf:owner/name@v9", **options)
