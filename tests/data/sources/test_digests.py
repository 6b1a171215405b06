"""Content hashes that are remembered, but never too long."""

import os
import shutil
import time

import pytest

from softdecode.data.sources import digests
from softdecode.data.sources.digests import digest_files
from softdecode.errors import SoftDecodeError


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that were really read."""
    names = []
    read = digests.file_sha256
    monkeypatch.setattr(digests, "file_sha256", lambda path: names.append(path.name) or read(path))
    return names


@pytest.fixture
def root(tmp_path):
    """Three files."""
    (tmp_path / "root").mkdir()
    for name in "abc":
        (tmp_path / "root" / name).write_text(name)
    return tmp_path / "root"


def let_time_pass(monkeypatch, seconds=60):
    later = time.time_ns() + seconds * 10**9
    monkeypatch.setattr(digests.time, "time_ns", lambda: later)


def test_files_are_read_once_as_long_as_they_stay(root, tmp_path, reads, monkeypatch):
    let_time_pass(monkeypatch)
    first = digest_files(root, ["a", "b", "c"], tmp_path / "cache")
    assert sorted(reads) == ["a", "b", "c"]
    reads.clear()
    assert digest_files(root, ["a", "b", "c"], tmp_path / "cache", threads=2) == first
    assert reads == []


def test_a_changed_file_is_read_again_even_with_its_old_size_and_time(root, tmp_path, reads, monkeypatch):
    let_time_pass(monkeypatch)
    first = digest_files(root, ["a", "b", "c"], tmp_path / "cache")
    before = (root / "b").stat()
    time.sleep(0.02)  # so that the file system's clock ticks
    (root / "b").write_text("x")
    os.utime(root / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
    reads.clear()
    assert digest_files(root, ["a", "b", "c"], tmp_path / "cache") != first
    assert reads == ["b"]


def test_what_was_written_just_now_is_not_remembered(root, tmp_path, reads):
    """It could be written again within the same tick of the clock."""
    digest_files(root, ["a"], tmp_path / "cache")
    digest_files(root, ["a"], tmp_path / "cache")
    assert reads == ["a", "a"]


def test_names_and_bytes_count_and_the_place_does_not(root, tmp_path):
    def digest(folder, names):
        return digest_files(folder, names, tmp_path / "cache")

    first = digest(root, ["a", "b"])
    shutil.copytree(root, tmp_path / "copy")
    assert digest(tmp_path / "copy", ["a", "b"]) == first
    (tmp_path / "copy" / "b").rename(tmp_path / "copy" / "d")
    assert digest(tmp_path / "copy", ["a", "d"]) != first
    assert digest(root, ["a"]) != first
    assert digest(root, ["b", "a"]) != first


def test_a_file_that_is_not_there_is_named(root, tmp_path):
    with pytest.raises(SoftDecodeError, match=r"cannot read .*/root/z: No such file"):
        digest_files(root, ["a", "z"], tmp_path / "cache")


def test_a_file_that_changes_while_it_is_read_is_refused(root, tmp_path, monkeypatch):
    def grow(path):
        path.write_text(path.read_text() + "more")
        return "0" * 64

    monkeypatch.setattr(digests, "file_sha256", grow)
    with pytest.raises(SoftDecodeError, match="changed while it was read"):
        digest_files(root, ["a"], tmp_path / "cache")


def test_hashing_that_is_stopped_goes_on_where_it_was(root, tmp_path, reads, monkeypatch):
    let_time_pass(monkeypatch)
    monkeypatch.setattr(digests, "_SAVED_EVERY", -1)
    with pytest.raises(SoftDecodeError, match="cannot read"):
        digest_files(root, ["a", "b", "z"], tmp_path / "cache")
    reads.clear()
    digest_files(root, ["a", "b", "c"], tmp_path / "cache")
    assert reads == ["c"]
