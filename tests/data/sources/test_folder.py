"""Folders of pictures."""

import shutil

import pytest

from softdecode.data.sources.folder import FolderSource
from softdecode.errors import SoftDecodeError

from .conftest import picture_bytes


@pytest.fixture
def root(tmp_path):
    """Pictures of several kinds in nested folders, and other files between them."""
    root = tmp_path / "root"
    files = {
        "b/two.PNG": picture_bytes(2),
        "b/two.txt": b" a caption \n",
        "a/one.jpg": picture_bytes(1, format="JPEG"),
        "three.webp": picture_bytes(3, format="WEBP"),
        "a/notes.md": b"no picture",
        "a/.hidden.png": picture_bytes(4),
        ".cache/five.png": picture_bytes(5),
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def keys_and_captions(root, corrupt, options, **more):
    return [(sample.key, sample.caption) for sample in FolderSource(root, **options, **more).samples(corrupt)]


def test_pictures_come_by_relative_path_with_the_text_beside_them(root, corrupt, options):
    found = keys_and_captions(root, corrupt, options)
    assert found == [("a/one.jpg", None), ("b/two.PNG", "a caption"), ("three.webp", None)]


def test_captions_can_be_the_folders(root, corrupt, options):
    found = keys_and_captions(root, corrupt, options, caption_from="folder")
    assert found == [("a/one.jpg", "a"), ("b/two.PNG", "b"), ("three.webp", None)]


def test_identity_follows_names_bytes_and_captions_and_not_the_place(root, tmp_path, options):
    def identity(folder, **more):
        return FolderSource(folder, **options, **more).identity

    first = identity(root)
    changes = {
        "byte": lambda copy: (copy / "three.webp").write_bytes(picture_bytes(30, format="WEBP")),
        "added": lambda copy: (copy / "new.png").write_bytes(picture_bytes(6)),
        "renamed": lambda copy: (copy / "three.webp").rename(copy / "four.webp"),
        "caption": lambda copy: (copy / "b/two.txt").write_text("another"),
        "new caption": lambda copy: (copy / "three.txt").write_text("a third"),
    }
    found = {first, identity(root, caption_from="folder")}
    for name, change in changes.items():
        copy = tmp_path / name
        shutil.copytree(root, copy)
        assert identity(copy) == first
        change(copy)
        found.add(identity(copy))
    assert len(found) == 2 + len(changes)
    (root / "a/notes.md").write_text("read by no one")
    assert identity(root) == first


def test_a_caption_that_is_not_text_makes_the_picture_unusable(root, corrupt, options):
    (root / "b/two.txt").write_bytes(b"\xff\xfe\xff")
    assert [key for key, _ in keys_and_captions(root, corrupt, options)] == ["a/one.jpg", "three.webp"]
    assert "b/two.txt is not UTF-8" in corrupt.path.read_text()


def test_a_picture_that_vanishes_is_listed(root, corrupt, options):
    source = FolderSource(root, **options)
    (root / "a/one.jpg").unlink()
    assert len(list(source.samples(corrupt))) == 2
    assert "No such file" in corrupt.path.read_text()


def test_linked_folders_are_followed_but_not_in_circles(root, tmp_path, corrupt, options):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.png").write_bytes(picture_bytes(7))
    (root / "link").symlink_to(elsewhere)
    assert ("link/x.png", None) in keys_and_captions(root, corrupt, options)
    (elsewhere / "back").symlink_to(root)
    with pytest.raises(SoftDecodeError, match=r"back is also elsewhere below .*, by a link"):
        FolderSource(root, **options)


def test_a_folder_without_pictures_is_refused(tmp_path, options):
    with pytest.raises(SoftDecodeError, match=r"holds no picture; expected .png, .jpg, .jpeg, .webp"):
        FolderSource(tmp_path, **options)
    with pytest.raises(SoftDecodeError, match="is not a folder of pictures"):
        FolderSource(tmp_path / "nowhere", **options)
