"""`softdecode export`: the runs in the layout that the library ships."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from softdecode.training.export import model_card, training_seconds
from softdecode.training.presets import PRESETS
from softdecode.vlm.registry import load_vlm

TRAINED = PRESETS["tiny"]["decoder"]().variants


def test_the_layout(stack):
    assert {path.name for path in stack.exported.iterdir()} == {"vlm", "base", "decoders", "README.md"}
    assert {path.name for path in stack.decoders.iterdir()} == set(TRAINED)
    assert {path.name for path in (stack.exported / "base").iterdir()} == {"transformer", "vae"}
    for name in TRAINED:
        files = {path.name for path in (stack.decoders / name).iterdir()}
        assert files == {"README.md", "config.json", "calibration.json", "model.safetensors"}
        config = json.loads((stack.decoders / name / "config.json").read_text())
        assert (config["steps"], config["noise_scale"]) == (3, 0.9)


def test_weights_are_stored_in_half_precision_and_codebooks_are_not(stack):
    for file in stack.exported.rglob("*.safetensors"):
        kinds = {name: tensor.dtype for name, tensor in load_file(file).items()}
        codebook = kinds.pop("codebook", torch.float32)
        assert codebook == torch.float32
        assert set(kinds.values()) == {torch.float16}, file


@torch.no_grad()
def test_the_exported_vlm_is_the_trained_one(stack):
    trained, exported = load_vlm(stack.runs / "vlm" / "model"), load_vlm(stack.vlm)
    assert exported.defaults == trained.defaults
    assert torch.equal(exported.tokenizer.codebook, trained.tokenizer.codebook)
    assert exported.prompt_ids("noto red apple") == trained.prompt_ids("noto red apple")
    logits = []
    for vlm in (trained, exported):
        seen = []
        vlm.sample(["noto disc number 1"], seeds=[0], on_logits=seen.append)
        logits.append(seen[0])
    torch.testing.assert_close(*logits, rtol=0, atol=0.02)


def test_the_stack_can_be_moved(stack, softdecode, tmp_path):
    moved = shutil.copytree(stack.exported, tmp_path / "elsewhere")
    models = ["--model", moved / "vlm", "--decoder", moved / "decoders" / "hard"]
    assert softdecode("generate", "a", *models, "--output", tmp_path / "output").code == 0


def test_the_model_card_names_data_licences_and_runs(stack):
    card = (stack.exported / "README.md").read_text()
    for package in ("emoji-datasource-google@", "emoji-datasource-twitter@", "fluent-emoji-3d@", "emojibase-data@"):
        assert package in card
    for licence in ("Apache-2.0", "CC-BY-4.0", "MIT"):
        assert licence in card
    for job in ("tokenizer", "vae", "vlm", "decoder"):
        (line,) = (line for line in card.splitlines() if f"`softdecode train {job}`" in line)
        assert "| 16 | 4 | 4 | 0 |" in line


def test_the_model_card_says_where_files_differed_from_the_revision(stack, tmp_path):
    runs = {}
    for job in ("tokenizer", "vae", "vlm", "decoder"):
        runs[job] = tmp_path / job
        runs[job].mkdir()
        shutil.copy(stack.runs / job / "log.jsonl", runs[job])
        record = json.loads((stack.runs / job / "run.json").read_text())
        record["provenance"]["git"] = "0123456789abcdef0123456789abcdef01234567" + "-dirty" * (job == "vae")
        (runs[job] / "run.json").write_text(json.dumps(record))
    lines = [line for line in model_card(runs).splitlines() if "`softdecode train" in line]
    assert all("0123456789ab" in line for line in lines)
    assert ["dirty" in line for line in lines] == [False, True, False, False]


def test_an_export_replaces_what_was_there(stack, softdecode, tmp_path):
    output = shutil.copytree(stack.exported, tmp_path / "stack")
    (output / "stale").write_text("from before")
    parts = [word for name in ("tokenizer", "vae", "vlm", "decoder") for word in (f"--{name}", stack.runs / name)]
    result = softdecode("export", "--output", output, *parts, "--dtype", "bfloat16")
    assert result.code == 0
    assert not (output / "stale").exists()
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    assert result.out == f"wrote {output}: {size / 1e6:.1f} MB\n"
    weights = load_file(output / "decoders" / "soft" / "model.safetensors")
    assert weights["condition.conv.weight"].dtype == torch.bfloat16
    assert json.loads((output / "decoders" / "soft" / "config.json").read_text())["steps"] == 2, "as trained"


# --- training time ------------------------------------------------------------------------------------------------


def write_run(folder, pieces):
    """A run whose pieces start at a step and log (step, seconds since the piece began)."""
    lines = [
        json.dumps({"step": step, "resumed_at": start, "seconds": seconds})
        for start, logged in pieces
        for step, seconds in logged
    ]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_the_pieces_of_a_resumed_run_add_up(tmp_path):
    run = write_run(tmp_path, [(0, [(50, 100), (100, 200)]), (100, [(150, 50), (200, 100)])])
    assert training_seconds(run) == pytest.approx(300)


def test_the_time_of_steps_that_were_repeated_was_spent_too(tmp_path):
    """Killed at step 120 after the checkpoint of step 100, from which it went on."""
    run = write_run(tmp_path, [(0, [(100, 200), (120, 240)]), (100, [(120, 300), (150, 400)])])
    assert training_seconds(run) == pytest.approx(240 + 400)


def test_a_second_resume_from_the_same_checkpoint(tmp_path):
    run = write_run(tmp_path, [(0, [(120, 240)]), (100, [(150, 100)]), (100, [(120, 40)])])
    assert training_seconds(run) == pytest.approx(240 + 100 + 40)


def test_a_run_that_changes_its_speed(tmp_path):
    """Compiling makes the first steps slow: 100 s for the first 50, 20 s for the next."""
    assert training_seconds(write_run(tmp_path, [(0, [(50, 100), (100, 120)])])) == pytest.approx(120)
