"""One line of text to a source."""

import pytest

from softdecode.data.sources import open_source
from softdecode.data.sources.folder import FolderSource
from softdecode.data.sources.hub import HubSource, HubStreamSource
from softdecode.data.sources.tars import TarSource
from softdecode.errors import SoftDecodeError

from .conftest import picture_bytes, pictures, write_folder, write_parquet, write_saved, write_tars


def test_each_form_opens_its_source(tmp_path, options):
    files = pictures(6)
    folder, tars = write_folder(tmp_path / "a", files), write_tars(tmp_path / "b", files)
    parquet = write_parquet(tmp_path / "c", files)
    forms = {
        folder: FolderSource,
        tars: TarSource,
        f"{tars}/s-00.tar": TarSource,
        f"{tars}/s-{{00..01}}.tar": TarSource,
        f"hf:{parquet}": HubSource,
        f"hf-stream:{parquet}": HubStreamSource,
    }
    for spec, kind in forms.items():
        assert type(open_source(spec, **options)) is kind


def test_the_home_folder_is_found(tmp_path, options, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "a", pictures(6))
    write_tars(tmp_path / "b", pictures(6))
    assert len(open_source("~/a", **options)) == 6
    assert len(open_source("~/b/s-{00..01}.tar", **options)) == 6


@pytest.mark.parametrize("spec", ["", "nowhere", "s3://bucket/pictures", "picture.png", "nowhere.tar.gz"])
def test_anything_else_is_refused_with_the_forms(spec, options):
    with pytest.raises(SoftDecodeError, match=r"is no source of pictures; expected a folder of pictures; a .tar file"):
        open_source(spec, **options)


@pytest.mark.parametrize("spec", ["pipe:cat a.tar", "pipe:curl https://example.org"])
def test_shell_commands_are_refused(spec, options):
    with pytest.raises(SoftDecodeError, match="would run a shell command"):
        open_source(spec, **options)


def test_remote_tars_are_refused(options):
    with pytest.raises(SoftDecodeError, match=r"https://example.org/a.tar is not a local file"):
        open_source("https://example.org/a.tar", **options)


def test_folders_of_another_kind_are_refused_with_advice(tmp_path, options):
    with pytest.raises(SoftDecodeError, match="is a Hugging Face dataset; name it as hf:"):
        open_source(write_saved(tmp_path / "saved", pictures(3)), **options)
    with pytest.raises(SoftDecodeError, match="is a Hugging Face dataset; name it as hf:"):
        open_source(write_parquet(tmp_path / "parquet", pictures(3)), **options)
    both = write_tars(tmp_path / "both", pictures(3))
    (tmp_path / "both/a.png").write_bytes(picture_bytes(1))
    with pytest.raises(SoftDecodeError, match=r"holds pictures beside .tar files"):
        open_source(both, **options)


def test_options_that_would_change_nothing_are_refused(tmp_path, options):
    folder, tars = write_folder(tmp_path / "a", pictures(3)), write_tars(tmp_path / "b", pictures(3))
    for spec, given in (
        (folder, {"caption_column": "text"}),
        (tars, {"image_column": "image"}),
        (tars, {"caption_from": "folder"}),
        ("hf:owner/name", {"caption_from": "folder"}),
    ):
        with pytest.raises(SoftDecodeError, match=f"is a source without {next(iter(given))}; leave that out"):
            open_source(spec, **options, **given)


def test_threads_are_counted_from_one(tmp_path, options):
    with pytest.raises(SoftDecodeError, match="0 threads were asked for"):
        open_source(write_folder(tmp_path / "a", pictures(3)), threads=0, **options)
