"""Files: nothing half-written whatever goes wrong, and weights read strictly."""

import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from softdecode import files
from softdecode.errors import SoftDecodeError
from softdecode.files import (
    atomic_folder,
    atomic_path,
    file_sha256,
    load_strictly,
    read_json,
    read_tensors,
    tensor_sha256,
    write_json,
    write_tensors,
)


def disk_full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_half_and_fail(atomic, error):
    """Enter `atomic_path` or `atomic_folder`, write a part of what was to come, and fail."""
    with atomic as temporary:
        (temporary / "new.txt" if temporary.is_dir() else temporary).write_text("half", encoding="utf-8")
        raise error


def contents(folder):
    """Every file below a folder with its text."""
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*")) if p.is_file()}


# --- atomic_path --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("inside"), KeyboardInterrupt()])
def test_a_failed_block_leaves_the_old_file_and_no_other(error, tmp_path):
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    with pytest.raises(type(error)):
        write_half_and_fail(atomic_path(tmp_path / "a.txt"), error)
    assert contents(tmp_path) == {"a.txt": "old"}


def test_until_the_block_ends_the_old_file_stays(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old", encoding="utf-8")
    with atomic_path(target) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert temporary.parent == target.parent  # the same file system, so that replacing is atomic
        assert temporary.suffix == ".txt"
        assert target.read_text(encoding="utf-8") == "old"
    assert contents(tmp_path) == {"a.txt": "new"}


def test_folders_on_the_way_are_made(tmp_path):
    with atomic_path(tmp_path / "a" / "b" / "c.txt") as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert contents(tmp_path) == {os.path.join("a", "b", "c.txt"): "new"}


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_get_the_permissions_of_any_new_file(mask, tmp_path):
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("new", encoding="utf-8")
        assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_a_disk_that_fills_in_the_block_changes_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    with pytest.raises(SoftDecodeError, match=r"a\.txt: No space left on device"):
        write_half_and_fail(atomic_path(tmp_path / "a.txt"), OSError(errno.ENOSPC, "No space left on device"))
    assert contents(tmp_path) == {"a.txt": "old"}


@pytest.mark.parametrize("step", ["mkstemp", "replace"])
def test_a_disk_that_is_full_before_or_after_the_block_changes_nothing(step, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    monkeypatch.setattr(*((files.tempfile, "mkstemp") if step == "mkstemp" else (os, "replace")), disk_full)
    with pytest.raises(SoftDecodeError, match="No space left on device"):
        write_json(tmp_path / "a.txt", {"new": 1})
    assert contents(tmp_path) == {"a.txt": "old"}


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "a").write_text("old", encoding="utf-8")
    with pytest.raises(SoftDecodeError, match="cannot write"):
        write_json(tmp_path / "a" / "b.json", 1)
    assert contents(tmp_path) == {"a": "old"}


def test_a_folder_in_the_place_of_a_file_is_an_error_and_stays(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(SoftDecodeError, match="cannot write"):
        write_json(tmp_path / "a", 1)
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "b"]


# --- JSON and tensors ---------------------------------------------------------------------------------------------


def test_json_is_read_back_as_written(tmp_path):
    value = {"ü": [1, 2.5, None, True], "nested": {"x": "y"}, "tiny": 1e-300, "third": 1 / 3}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", "old")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert contents(tmp_path) == {"a.json": '"old"\n'}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"nonsense"])
def test_a_damaged_json_file_is_an_error_that_names_it(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(SoftDecodeError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_an_unreadable_json_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SoftDecodeError, match=r"absent\.json: No such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(SoftDecodeError, match="Is a directory"):
        read_json(tmp_path)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 6, generator=generator)
    return {
        "transposed": matrix.T,
        "strided": matrix[::2, 1:4],
        "half": matrix.to(torch.bfloat16),
        "integers": torch.arange(7),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "learned": matrix[:2].clone().requires_grad_(True),
    }


def test_tensors_and_metadata_are_read_back_bit_by_bit(tmp_path, tensors):
    write_tensors(tmp_path / "a.safetensors", tensors, {"vlm": "x"})
    found, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"vlm": "x"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SafetensorError("No space left on device")]
)
def test_a_disk_that_fills_while_tensors_are_written_changes_nothing(error, tmp_path, tensors, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors)
    before = path.read_bytes()

    def half(_tensors, name, **_options):
        Path(name).write_bytes(b"half")
        raise error

    monkeypatch.setattr(files, "save_file", half)
    with pytest.raises(SoftDecodeError, match=r"cannot write .*No space left on device"):
        write_tensors(path, {"other": torch.ones(1)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("kept", [0, 7, 8, 60, -1])
def test_a_truncated_tensor_file_is_an_error_that_names_it(kept, tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SoftDecodeError, match=r"a\.safetensors is damaged"):
        read_tensors(path)


def test_what_is_no_tensor_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a.safetensors").write_text("a text, and a rather longer one than eight bytes", encoding="utf-8")
    with pytest.raises(SoftDecodeError, match=r"a\.safetensors is damaged or not a safetensors file"):
        read_tensors(tmp_path / "a.safetensors")
    with pytest.raises(SoftDecodeError, match=r"b\.safetensors does not exist"):
        read_tensors(tmp_path / "b.safetensors")


# --- atomic_folder ------------------------------------------------------------------------------------------------


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "model"
    for name in ("old", "new"):
        with atomic_folder(target) as temporary:
            (temporary / f"{name}.txt").write_text(name, encoding="utf-8")
    assert contents(tmp_path) == {os.path.join("model", "new.txt"): "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "error", [KeyError("inside"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failed_block_leaves_the_old_folder_and_no_other(error, tmp_path):
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "old.txt").write_text("old", encoding="utf-8")
    expected = SoftDecodeError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_half_and_fail(atomic_folder(tmp_path / "model"), error)
    assert contents(tmp_path) == {os.path.join("model", "old.txt"): "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_cannot_be_put_in_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "old.txt").write_text("old", encoding="utf-8")
    replace = os.replace

    def refuse(source, target):
        if Path(target) == tmp_path / "model" and not Path(source).name.endswith("old"):
            disk_full()
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(SoftDecodeError, match="unchanged"), atomic_folder(tmp_path / "model") as temporary:
        (temporary / "new.txt").write_text("new", encoding="utf-8")
    assert contents(tmp_path) == {os.path.join("model", "old.txt"): "old"}


# --- load_strictly ------------------------------------------------------------------------------------------------


def test_strict_loading_copies_in_place_and_converts_the_dtype():
    state = {"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}
    shared = state["a"]
    load_strictly(state, {"a": torch.full((2, 3), 1.5, dtype=torch.float64), "b": torch.full((4,), 1 / 3)}, "x")
    assert torch.equal(shared, torch.full((2, 3), 1.5))
    assert torch.equal(state["b"], torch.full((4,), 1 / 3).bfloat16())


def test_strict_loading_lists_every_deviation_and_changes_nothing():
    state = {name: torch.zeros(2, 3) for name in ("fits", "m1", "m2", "s1", "s2")}
    read = {
        "fits": torch.ones(2, 3),
        "s1": torch.ones(3, 2),
        "s2": torch.ones(6),
        "u1": torch.ones(1),
        "u2": torch.ones(1),
    }
    with pytest.raises(SoftDecodeError) as caught:
        load_strictly(state, read, "model.safetensors")
    message = str(caught.value)
    assert message.startswith("model.safetensors")
    assert "2 missing: m1, m2" in message
    assert "2 unexpected: u1, u2" in message
    assert "2 misshaped: s1 is [3, 2], expected [2, 3], s2 is [6], expected [2, 3]" in message
    assert "fits" not in message.replace("does not fit", "")
    assert all(torch.equal(value, torch.zeros(2, 3)) for value in state.values())


@pytest.mark.parametrize(
    ("read", "message"),
    [
        ({"a": torch.ones(2)}, "1 missing: b"),
        ({"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(1)}, "1 unexpected: c"),
        ({"a": torch.ones(1), "b": torch.ones(3)}, r"1 misshaped: a is \[1\], expected \[2\]"),
    ],
)
def test_one_deviation_alone_is_enough_to_refuse(read, message):
    state = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(SoftDecodeError, match=f"x does not fit the model: {message}$"):
        load_strictly(state, read, "x")
    assert not any(value.any() for value in state.values())


# --- hashes -------------------------------------------------------------------------------------------------------


def test_a_files_hash_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_tensors_hash_is_of_its_dtype_shape_and_bytes():
    values = torch.arange(12, dtype=torch.float32).view(3, 4)
    assert tensor_sha256(values) == hashlib.sha256(b"torch.float32 (3, 4)" + values.numpy().tobytes()).hexdigest()
    assert tensor_sha256(values.T.contiguous().T) == tensor_sha256(values)
    changed = values.clone()
    changed[2, 3] += 1
    others = [changed, values.view(4, 3), values.view(12), values.int(), values.double(), values.bfloat16(), -values]
    assert len({tensor_sha256(other) for other in [values, *others]}) == 8


def test_a_hash_survives_the_file(tmp_path):
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    write_tensors(tmp_path / "a.safetensors", {"x": values})
    write_json(tmp_path / "a.json", {"x": tensor_sha256(values)})
    assert (
        tensor_sha256(read_tensors(tmp_path / "a.safetensors")[0]["x"])
        == json.loads((tmp_path / "a.json").read_text())["x"]
    )
