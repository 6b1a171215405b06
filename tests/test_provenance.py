"""Where a result comes from."""

import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import torch

from softdecode import provenance as module
from softdecode.provenance import provenance


def test_versions_machine_and_time():
    found = provenance()
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["softdecode"]
    assert found["threads"] == torch.get_num_threads()
    time = datetime.fromisoformat(found["time"])
    assert time.tzinfo is not None
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=10)
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(module, "_LIBRARIES", ("torch", "no-such-package"))
    assert provenance()["versions"]["no-such-package"] is None


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_revision_says_where_files_differ(tmp_path, monkeypatch):
    folder = tmp_path / "src"
    folder.mkdir()
    monkeypatch.setattr(module, "__file__", str(folder / "provenance.py"))
    assert provenance()["git"] is None, "no checkout at all"
    git(tmp_path, "init", "--quiet")
    (folder / "provenance.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    git(tmp_path, "tag", "-a", "v1.0", "-m", "a tag must not take the revision's place")
    revision = git(tmp_path, "rev-parse", "HEAD")
    assert provenance()["git"] == revision
    (folder / "provenance.py").write_text("2")
    assert provenance()["git"] == f"{revision}-dirty"


def test_without_git_there_is_no_revision(monkeypatch):
    monkeypatch.setenv("PATH", "/nothing")
    assert provenance()["git"] is None
