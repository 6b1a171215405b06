"""Webdataset tars."""

import json
import sys
import tarfile
from contextlib import ExitStack
from itertools import islice

import pytest

from softdecode.data.sources.tar_index import index_tar
from softdecode.data.sources.tars import TarSource, find_shards
from softdecode.errors import SoftDecodeError

from .conftest import picture_bytes, pictures, write_tar, write_tars


@pytest.fixture
def root(tmp_path):
    """Four tars of five samples each, all usable."""
    return write_tars(tmp_path / "tars", pictures(20, damaged=()))


def test_our_index_is_what_the_webdataset_library_reads(root, corrupt, options, tmp_path):
    library = pytest.importorskip("webdataset.tariterators")
    write_tar(tmp_path / "tars/s-99.tar", [("sub/x", {"y.png": picture_bytes(3), "JPG": picture_bytes(4)})])
    with ExitStack() as opened:
        shards = [{"url": str(path), "stream": opened.enter_context(open(path, "rb"))} for path in find_shards(root)]
        expected = [sample["__key__"] for sample in library.group_by_keys(library.tar_file_expander(shards))]
    found = [sample.key.partition("/")[2] for sample in TarSource(root, **options).samples(corrupt)]
    assert found == expected
    assert len(found) == 21


def test_patterns_folders_and_lists_name_the_same_shards(root, tmp_path):
    expected = [tmp_path / f"tars/s-{number:02}.tar" for number in range(4)]
    assert find_shards(root) == expected
    assert find_shards(f"{root}/s-{{00..03}}.tar") == expected
    assert find_shards(f"{root}/s-0{{0,1}}.tar") == expected[:2]
    assert find_shards([f"{root}/s-03.tar"]) == expected[3:]


@pytest.mark.parametrize(
    ("shards", "reason"),
    [
        ("pipe:cat a.tar", "would run a shell command"),
        (["pipe:cat a.tar"], "would run a shell command"),
        ("https://example.org/a-{0..1}.tar", "is not a local file"),
        ("nowhere.tar", "there is no tar file nowhere.tar"),
        ("a-{0..1.tar", "cannot be expanded"),
        ([], "names no tar"),
    ],
)
def test_what_names_no_local_tar_is_refused(shards, reason):
    with pytest.raises(SoftDecodeError, match=reason):
        find_shards(shards)


def test_a_tar_named_twice_or_a_folder_without_is_refused(root, tmp_path):
    with pytest.raises(SoftDecodeError, match="names a tar twice"):
        find_shards([f"{root}/s-00.tar"] * 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SoftDecodeError, match=r"holds no .tar file"):
        find_shards(str(tmp_path / "empty"))


def test_captions_come_from_text_or_json(tmp_path, corrupt, options):
    picture = {"png": picture_bytes(1)}
    samples = {
        "a": {"txt": b"text \n", "json": b'{"caption": "json"}'},
        "b": {"json": json.dumps({"caption": "a json caption", "width": 3}).encode()},
        "c": {"json": b'{"width": 3}'},
        "d": {},
        "e": {"json": b'{"caption": 3}'},
        "f": {"json": b"{half"},
        "g": {"txt": b"\xff\xfe"},
    }
    tar = write_tar(tmp_path / "a.tar", [(key, picture | files) for key, files in samples.items()])
    found = {sample.key[-1]: sample.caption for sample in TarSource(str(tar), **options).samples(corrupt)}
    assert found == {"a": "text", "b": "a json caption", "c": None, "d": None}
    assert corrupt.skipped == 3


def test_a_sample_without_a_picture_is_listed(tmp_path, corrupt, options):
    tar = write_tar(tmp_path / "a.tar", [("a", {"txt": b"alone"}), ("b", {"webp": picture_bytes(1, format="WEBP")})])
    assert [sample.number for sample in TarSource(str(tar), **options).samples(corrupt)] == [1]
    assert "a has no picture; expected jpg, jpeg, png, webp" in corrupt.path.read_text()


def test_a_block_is_some_shards_shuffled_together(root, corrupt, options):
    source = TarSource(root, **options, shards_at_once=2)
    stream = source.stream(corrupt, seed=1)
    for _ in range(6):
        block = [sample.key for sample in islice(stream, 10)]
        assert len(set(block)) == 10
        assert len({key.partition("/")[0] for key in block}) == 2
    seen = {sample.key for sample in islice(stream, 400)}
    assert len(seen) == 20


def test_processes_get_other_samples_of_a_block(root, corrupt, options):
    """Three of them divide every block of ten, with no sample twice, and together are the stream of one process."""
    source = TarSource(root, **options, shards_at_once=2)
    whole = [sample.key for sample in islice(source.stream(corrupt, seed=1), 30)]
    parts = [[s.key for s in islice(source.stream(corrupt, seed=1, rank=rank, world=3), 10)] for rank in range(3)]
    assert [key for step in zip(*parts, strict=True) for key in step] == whole


@pytest.mark.parametrize("kept", [5 * 1024 + 100, 5 * 1024 + 520, 5 * 1024, 12 * 1024, 12 * 1024 + 100])
def test_a_tar_that_ends_too_early_is_refused(tmp_path, kept):
    """In a header, in a picture, between two, before the end mark or in it: a sample is a header and one block."""
    path = write_tar(tmp_path / "a.tar", [(f"{i}", {"png": picture_bytes(i)}) for i in range(12)])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SoftDecodeError, match=r"a.tar is damaged or not an uncompressed tar"):
        index_tar(path)


def test_tars_that_were_joined_are_refused(tmp_path):
    """The library would read the first part only."""
    one, two = (write_tar(tmp_path / f"{i}.tar", [(f"{i}", {"png": picture_bytes(i)})]) for i in range(2))
    one.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(SoftDecodeError, match="there is more after byte"):
        index_tar(one)


def test_a_damaged_header_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", [(f"{i}", {"png": picture_bytes(i)}) for i in range(3)])
    data = bytearray(path.read_bytes())
    data[1024 + 5] ^= 1  # in the name of the second sample
    path.write_bytes(data)
    with pytest.raises(SoftDecodeError, match="is damaged or not an uncompressed tar"):
        index_tar(path)


def test_compressed_tars_other_files_and_doubles_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    (tmp_path / "b.tar").write_text("hello" * 500)
    (tmp_path / "c.tar").write_bytes(b"")
    write_tar(tmp_path / "d.tar", [("a", {"png": b"1"}), ("a", {"png": b"2"})])
    for name in "abcd":
        with pytest.raises(SoftDecodeError, match=f"{name}.tar is damaged or not an uncompressed tar"):
            index_tar(tmp_path / f"{name}.tar")


def test_tars_without_samples_are_refused(tmp_path, options):
    write_tar(tmp_path / "a.tar", [])
    with pytest.raises(SoftDecodeError, match="hold no sample"):
        TarSource(str(tmp_path / "a.tar"), **options)


def test_an_empty_tar_among_others_is_no_trouble(root, tmp_path, corrupt, options):
    write_tar(tmp_path / "tars/r-empty.tar", [])
    source = TarSource(root, **options, shards_at_once=1)
    assert len(source) == 20
    assert len(list(source.samples(corrupt, 7))) == 13
    assert len({sample.key for sample in islice(source.stream(corrupt, seed=1), 200)}) == 20


def test_identity_follows_names_and_bytes_of_the_tars(root, tmp_path, options):
    first = TarSource(root, **options).identity
    assert TarSource(f"{root}/s-{{00..03}}.tar", **options).identity == first
    (tmp_path / "tars/s-03.tar").rename(tmp_path / "tars/s-04.tar")
    assert TarSource(root, **options).identity != first


def test_a_missing_library_is_named(root, options, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    with pytest.raises(SoftDecodeError, match=r"install softdecode\[train\]"):
        TarSource(root, **options)
