"""Weight files: every layout is read, and what is missing, damaged or more than tensors is named."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from softdecode.errors import SoftDecodeError
from softdecode.shards import read_checkpoint, read_shards

WEIGHTS = {name: torch.randn(3, 2, generator=torch.Generator().manual_seed(place)) for place, name in enumerate("abc")}
GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "llamagen_c2i"


def save_index(folder, name, shards):
    content = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (folder / name).write_text(json.dumps(content))


def single_safetensors(folder):
    save_file(WEIGHTS, folder / "model.safetensors")


def single_pickle(folder):
    torch.save(WEIGHTS, folder / "pytorch_model.bin")


def sharded_safetensors(folder):
    shards = {"model-1.safetensors": "ab", "model-2.safetensors": "c"}
    for file, keys in shards.items():
        save_file({key: WEIGHTS[key] for key in keys}, folder / file)
    save_index(folder, "model.safetensors.index.json", shards)


def sharded_pickles(folder):
    shards = {"pytorch_model-1.bin": "a", "pytorch_model-2.bin": "bc"}
    for file, keys in shards.items():
        torch.save({key: WEIGHTS[key] for key in keys}, folder / file)
    save_index(folder, "pytorch_model.bin.index.json", shards)


@pytest.mark.parametrize("save", [single_safetensors, single_pickle, sharded_safetensors, sharded_pickles])
def test_every_layout_is_read(save, tmp_path):
    save(tmp_path)
    found = dict(read_shards(tmp_path))
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


def test_safetensors_come_before_pickles(tmp_path):
    single_safetensors(tmp_path)
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert dict(read_shards(tmp_path)).keys() == WEIGHTS.keys()


@pytest.mark.parametrize("save", [sharded_safetensors, sharded_pickles])
def test_a_missing_shard_is_named(save, tmp_path):
    save(tmp_path)
    absent = next(path for path in sorted(tmp_path.iterdir()) if path.name.split(".")[0].endswith("2"))
    absent.unlink()
    with pytest.raises(SoftDecodeError, match=f"lacks weight files that its index names: {absent.name}"):
        list(read_shards(tmp_path))


def test_a_folder_without_weights_says_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SoftDecodeError, match=r"looked for .*model\.safetensors.*found notes\.txt"):
        list(read_shards(tmp_path))


@pytest.mark.parametrize("save", [single_safetensors, single_pickle])
def test_a_truncated_file_is_refused(save, tmp_path):
    save(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SoftDecodeError, match=path.name):
        list(read_shards(tmp_path))


@pytest.mark.parametrize("content", ["text", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(SoftDecodeError, match="index"):
        list(read_shards(tmp_path))


@pytest.mark.parametrize("wrap", [dict, lambda w: {"model": w}, lambda w: {"module": w}, lambda w: {"state_dict": w}])
def test_wrapped_checkpoints_are_unwrapped(wrap, tmp_path):
    torch.save(wrap(WEIGHTS), tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


def test_pickled_objects_are_refused_with_the_way_out(tmp_path):
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "train.pt")
    with pytest.raises(SoftDecodeError) as caught:
        read_checkpoint(tmp_path / "train.pt")
    message = str(caught.value)
    assert "pickled Python objects" in message
    # What the message says to do, done.
    command = message[message.index("torch.save(") :].replace("'train.pt'", repr(str(tmp_path / "train.pt")))
    exec(command.replace("'weights.pt'", repr(str(tmp_path / "weights.pt"))))
    assert read_checkpoint(tmp_path / "weights.pt").keys() == WEIGHTS.keys()


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1}, torch.ones(2)])
def test_what_is_no_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(SoftDecodeError, match="no dict of tensors"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SoftDecodeError, match="there is no file"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden LlamaGen checkpoints, which are not here")
def test_the_official_training_style_file_is_refused_and_the_others_are_read():
    with pytest.raises(SoftDecodeError, match="pickled Python objects"):
        read_checkpoint(GOLDEN / "c2i_tiny_train_style_f16.pt")
    plain, fsdp = (read_checkpoint(GOLDEN / name) for name in ("c2i_tiny.pt", "c2i_tiny_fsdp.pt"))
    assert plain.keys() == fsdp.keys()
    assert all(torch.equal(plain[name], fsdp[name]) for name in plain)
