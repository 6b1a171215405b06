"""Where pictures go: whole, and never mixed with those of another run."""

import numpy as np
import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.processes import ALONE
from softdecode.evaluation.sinks import NpzFiles, PngFolder


@pytest.fixture
def pictures():
    return torch.randint(0, 256, (5, 3, 6, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_npz_files_hold_the_pictures_in_their_order(pictures, tmp_path):
    sink = NpzFiles(tmp_path, ALONE)
    sink.write("soft@4", 0, pictures[:3])
    sink.write("vq", 0, pictures[:1])
    sink.write("soft@4", 3, pictures[3:])
    sink.finish(ALONE)
    assert np.array_equal(np.load(tmp_path / "soft@4.npz")["arr_0"], pictures.permute(0, 2, 3, 1).numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["soft@4.npz", "vq.npz"]


def test_what_an_interrupted_run_left_is_not_taken_over(pictures, tmp_path):
    """Also not that of a run of more processes than this one."""
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / "vq-7.raw").write_bytes(bytes(12 * 6 * 4 * 3))
    sink = NpzFiles(tmp_path, ALONE)
    sink.write("vq", 0, pictures)
    sink.finish(ALONE)
    assert len(np.load(tmp_path / "vq.npz")["arr_0"]) == 5


def test_png_files_are_written_into_an_empty_folder_alone(pictures, tmp_path):
    PngFolder(tmp_path / "out", ALONE).write("vq", 7, pictures[:2])
    assert sorted(path.name for path in (tmp_path / "out" / "vq").iterdir()) == ["000007.png", "000008.png"]
    with pytest.raises(SoftDecodeError, match="holds vq; choose an empty folder"):
        PngFolder(tmp_path / "out", ALONE)
