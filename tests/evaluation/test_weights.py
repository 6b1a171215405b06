"""Published weight files: fetched once, and checked by the hash in their names."""

import hashlib
from urllib.error import URLError

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.weights import fetched, read_weights


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def serve(monkeypatch, content):
    """Let downloads give `content`; returns the addresses that were asked for."""
    asked = []

    def download(url, path, progress):
        asked.append(url)
        with open(path, "wb") as file:
            file.write(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


def test_a_file_is_fetched_once(monkeypatch, hub):
    url = f"https://example.org/net-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    asked = serve(monkeypatch, b"weights")
    for _ in range(2):
        path = fetched(url, "--weights")
        assert path.read_bytes() == b"weights"
        assert path.parent == hub
    assert asked == [url]


def test_another_file_than_the_published_one_is_refused(monkeypatch):
    serve(monkeypatch, b"other")
    with pytest.raises(SoftDecodeError, match="SHA-256 should start 01234567"):
        fetched("https://example.org/net-01234567.pth", "--weights")


def test_no_network(monkeypatch, hub):
    def fail(*_arguments, **_options):
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(SoftDecodeError, match=r"cannot fetch .*no route.*name the file with --weights"):
        fetched("https://example.org/net-01234567.pth", "--weights")
    assert not list(hub.iterdir())


@pytest.mark.parametrize("content", [{"a": [1]}, [1, 2], {"epoch": 3}])
def test_what_is_not_tensors_by_name_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(SoftDecodeError, match="does not hold tensors by name"):
        read_weights(tmp_path / "x.pth")


def test_damaged_weights_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:1500])
    with pytest.raises(SoftDecodeError, match="is damaged"):
        read_weights(tmp_path / "x.pth")
