"""Bad input: exit code 2, one clear line on standard error, and no files left behind."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file


class Case:
    """Where a case of bad input lies: a copy of the models to be damaged, and an output folder that must stay empty."""

    def __init__(self, stack, folder):
        self.stack = stack
        self.folder = folder
        self.output = folder / "output"

    def copied(self):
        """Options that name a copy of the exported models, and the copy."""
        copy = shutil.copytree(self.stack.exported, self.folder / "copy")
        return ["--model", copy / "vlm", "--decoder", copy / "decoders" / "joint"], copy

    def picture(self, size=(64, 64), name="picture.png"):
        path = self.folder / name
        Image.new("RGB", size, "red").save(path)
        return path

    def text(self, content, name="file.txt"):
        path = self.folder / name
        path.write_text(content)
        return path

    def under_a_file(self):
        return self.text("a file, not a folder") / "folder"


@pytest.fixture
def case(stack, tmp_path):
    return Case(stack, tmp_path)


@pytest.fixture
def assert_refused(case, softdecode):
    """Run a command and check all that bad input promises; `words` must be in the line."""

    def check(command, *arguments, words):
        result = softdecode(*command.split(), *arguments, "--output", case.output)
        assert result.code == 2
        assert result.out == ""
        assert len(result.said) == 1, result.said
        assert result.said[0].startswith(f"softdecode {command.split()[0]}")
        assert ": error: " in result.said[0]
        assert words in result.said[0]
        assert [path for path in case.output.rglob("*") if path.is_file()] == []

    return check


@pytest.fixture(autouse=True)
def _no_npm(monkeypatch):
    """No test fetches anything."""
    monkeypatch.setattr("softdecode.data.emoji_packages.shutil.which", lambda _name: None)


def truncate(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def fill_with_nan(path, part):
    tensors = load_file(path)
    (name,) = [name for name in tensors if name.endswith(part)]
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, path, metadata={"format": "pt"})


WEIGHTS = {
    "vlm/model.safetensors": "JanusForConditionalGeneration",
    "decoders/joint/model.safetensors": "model.safetensors",
    "base/transformer/diffusion_pytorch_model.safetensors": "FluxTransformer2DModel",
    "base/vae/diffusion_pytorch_model.safetensors": "AutoencoderKL",
}


# --- generate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", WEIGHTS)
@pytest.mark.parametrize("damage", [Path.unlink, truncate], ids=["missing", "truncated"])
def test_weights_that_are_missing_or_truncated(case, assert_refused, file, damage):
    models, copy = case.copied()
    damage(copy / file)
    assert_refused("generate", *models, "a", words=WEIGHTS[file])


def test_weights_with_a_key_missing(case, assert_refused):
    models, copy = case.copied()
    path = copy / "decoders" / "joint" / "model.safetensors"
    tensors = load_file(path)
    del tensors["condition.conv.bias"]
    save_file(tensors, path)
    assert_refused("generate", *models, "a", words="1 missing: condition.conv.bias")


def test_a_decoder_trained_for_another_codebook(case, assert_refused):
    models, copy = case.copied()
    path = copy / "vlm" / "model.safetensors"
    tensors = load_file(path)
    name = "model.vqmodel.quantize.embedding.weight"
    save_file(tensors | {name: tensors[name].flip(0)}, path, metadata={"format": "pt"})
    assert_refused("generate", *models, "a", words="this decoder was trained for the codebook of")


def test_a_folder_that_is_no_decoder(case, assert_refused):
    vlm = case.stack.vlm
    assert_refused("generate", "--model", vlm, "--decoder", vlm, "a", words="is not a decoder's config")
    nothing = case.folder / "nothing"
    assert_refused("generate", "--model", vlm, "--decoder", nothing, "a", words="no such folder")


def test_a_folder_that_is_no_vlm(case, assert_refused):
    decoder = case.stack.decoders / "joint"
    assert_refused("generate", "--model", case.folder, "--decoder", decoder, "a", words="looked for config.json")
    nothing = case.folder / "nothing"
    assert_refused("generate", "--model", nothing, "--decoder", decoder, "a", words="there is no folder")


def test_no_prompt_and_empty_prompts(case, assert_refused):
    assert_refused("generate", *case.stack.models, words="no prompt given")
    assert_refused("generate", *case.stack.models, "", words="prompt 1 of 1 is empty")
    assert_refused("generate", *case.stack.models, "a", "  ", words="prompt 2 of 2 is empty")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--steps", 0, "--steps must be at least 1, got 0"),
        ("--steps", -3, "--steps must be at least 1, got -3"),
        ("--batch-size", 0, "--batch-size must be at least 1, got 0"),
        ("--device", "tpu", "unknown device 'tpu'; expected auto, cpu, mps, cuda or cuda:N"),
        ("--device", "cuda:7", "device cuda:7 is not here"),
        ("--dtype", "int4", "unknown dtype 'int4'; expected auto, float32, bfloat16, float16"),
        ("--guidance-scale", -1, "guidance_scale, temperature and top_k must be"),
        ("--temperature", "nan", "guidance_scale, temperature and top_k must be"),
        ("--top-k", -1, "guidance_scale, temperature and top_k must be"),
    ],
)
def test_options_out_of_range(case, assert_refused, option, value, words):
    if value == "cuda:7" and torch.cuda.device_count() > 7:
        pytest.skip("this machine has eight CUDA devices")
    assert_refused("generate", *case.stack.models, "a", option, value, words=words)


def test_nan_in_the_vlms_weights(case, assert_refused):
    models, copy = case.copied()
    fill_with_nan(copy / "vlm" / "model.safetensors", "generation_head.vision_head.weight")
    assert_refused("generate", *models, "a", words="the logits hold NaN")


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("decoders/joint/model.safetensors", "condition.projection.weight"),
        ("base/transformer/diffusion_pytorch_model.safetensors", "norm_out.linear.weight"),
        ("base/vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.weight"),
    ],
)
def test_nan_in_the_decoders_weights(case, assert_refused, file, part):
    models, copy = case.copied()
    fill_with_nan(copy / file, part)
    assert_refused("generate", *models, "a", words="NaN")


def test_an_output_folder_that_cannot_be_made(case, softdecode):
    result = softdecode("generate", *case.stack.models, "a", "--output", case.under_a_file())
    assert result.code == 2
    assert len(result.said) == 1
    assert "cannot write" in result.said[0]


# --- a full disk --------------------------------------------------------------------------------------------------


def fail_from_call(monkeypatch, place, count):
    """From its `count`-th call on, `os.replace` finds the disk full."""
    calls = []
    replace = os.replace

    def full(*arguments):
        calls.append(arguments)
        if len(calls) >= count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(*arguments)

    monkeypatch.setattr(place, full)
    return calls


@pytest.mark.parametrize("command", ["generate", "reconstruct"])
def test_a_full_disk(case, assert_refused, monkeypatch, command):
    fail_from_call(monkeypatch, "softdecode.files.os.replace", 1)
    what = "a" if command == "generate" else case.picture()
    assert_refused(command, *case.stack.models, what, words="No space left on device")


@pytest.mark.parametrize("written", [1, 3])
def test_a_disk_that_fills_up_while_writing(case, assert_refused, monkeypatch, written):
    fail_from_call(monkeypatch, "softdecode.files.os.replace", written + 1)
    assert_refused("generate", *case.stack.models, "a", words="No space left on device")


def test_a_disk_that_is_full_while_a_picture_is_written(case, assert_refused, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    picture = case.picture()
    monkeypatch.setattr(Image.Image, "save", full)
    assert_refused("reconstruct", *case.stack.models, picture, words="No space left on device")


def test_a_disk_that_is_full_while_weights_are_written(case, assert_refused, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("softdecode.files.save_file", full)
    assert_refused("generate", *case.stack.models, "a", words="No space left on device")


def test_a_full_disk_leaves_the_stack_that_was_there(case, softdecode, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in case.stack.exported.rglob("*")}
    fail_from_call(monkeypatch, "softdecode.files.os.replace", 1)
    runs = case.stack.runs
    parts = [word for name in ("tokenizer", "vae", "vlm", "decoder") for word in (f"--{name}", runs / name)]
    result = softdecode("export", *parts, "--output", case.stack.exported)
    assert result.code == 2
    assert len(result.said) == 1
    assert "No space left on device" in result.said[0]
    assert {path: path.stat().st_mtime_ns for path in case.stack.exported.rglob("*")} == before


# --- reconstruct --------------------------------------------------------------------------------------------------


def test_pictures_that_cannot_be_used(case, assert_refused):
    models = case.stack.models
    assert_refused("reconstruct", *models, words="no picture given")
    assert_refused("reconstruct", *models, case.folder / "nothing.png", words="No such file or directory")
    assert_refused("reconstruct", *models, case.folder, words="Is a directory")
    assert_refused("reconstruct", *models, case.text("hello", "text.png"), words="is not a picture that can be read")
    truncate(cut := case.picture(name="cut.png"))
    assert_refused("reconstruct", *models, cut, words="cannot read the picture")


def test_a_picture_of_another_size(case, assert_refused):
    picture = case.picture((65, 64))
    assert_refused("reconstruct", *case.stack.models, picture, words="is 65×64 pixels, the model takes 64×64")


def test_pictures_of_one_name(case, assert_refused):
    (case.folder / "other").mkdir()
    other = shutil.copy(case.picture(), case.folder / "other")
    assert_refused("reconstruct", *case.stack.models, case.picture(), other, words="several pictures are called")


# --- calibrate ----------------------------------------------------------------------------------------------------


def test_material_for_calibration(case, assert_refused):
    vlm, prompts = ["--model", case.stack.vlm], case.text("a\nb\n")
    usual = [*vlm, "--draws", 2, "--prompts", prompts]
    assert_refused("calibrate", *vlm, "--prompts", prompts, words="--prompts and --images go together")
    assert_refused("calibrate", *usual, "--images", case.folder / "nothing", words="is no source of pictures")
    assert_refused("calibrate", *usual, "--images", prompts, words="is no source of pictures")
    assert_refused("calibrate", *usual, "--images", case.stack.vlm, words="holds no picture")
    pictures = case.picture().parent
    assert_refused("calibrate", *usual, "--draws", 3, "--images", pictures, words="holds 2 prompts, 3 were asked for")
    missing = [*vlm, "--prompts", case.folder / "nothing.txt", "--images", pictures]
    assert_refused("calibrate", *missing, words="cannot read")
    assert_refused("calibrate", *usual, "--images", pictures, "--encodes", 0, words="--encodes must be at least 1")


def test_nan_while_calibrating(case, assert_refused):
    _, copy = case.copied()
    fill_with_nan(copy / "vlm" / "model.safetensors", "generation_head.vision_head.weight")
    options = ["--model", copy / "vlm", "--data", case.stack.data, "--draws", 2, "--encodes", 2]
    assert_refused("calibrate", *options, words="the logits hold NaN")


def test_emoji_data_that_is_not_there(case, assert_refused):
    options = ["--model", case.stack.vlm, "--draws", 2]
    assert_refused("calibrate", *options, "--data", case.folder / "nothing", words="npm is not installed")


def test_emoji_data_that_cannot_be_put_there(case, assert_refused, monkeypatch):
    monkeypatch.setattr("softdecode.data.emoji_packages.shutil.which", lambda _name: "/usr/bin/npm")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: pytest.fail("nothing must be fetched"))
    options = ["--model", case.stack.vlm, "--draws", 2]
    assert_refused("calibrate", *options, "--data", case.under_a_file(), words="Not a directory")


def test_emoji_data_that_is_damaged(case, assert_refused):
    data = shutil.copytree(case.stack.data, case.folder / "data")
    truncate(data / "emoji.safetensors")
    options = ["--model", case.stack.vlm, "--draws", 2]
    assert_refused("calibrate", *options, "--data", data, words="emoji.safetensors is damaged")


# --- train --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(case):
    """Options of the tiny jobs, with everything in its place."""
    runs, data = case.stack.runs, ["--preset", "tiny", "--data", case.stack.data, "--loop.threads", 1]
    return {
        "tokenizer": ["tokenizer", *data],
        "vae": ["vae", *data],
        "vlm": ["vlm", *data, "--tokenizer", runs / "tokenizer" / "model"],
        "decoder": [
            *("decoder", *data, "--vlm", runs / "vlm" / "model", "--vae", runs / "vae" / "model"),
            *("--calibration", runs / "calibration" / "calibration.json"),
        ],
    }


def test_what_cannot_be_trained(case, assert_refused):
    assert_refused("train", "unet", words="unknown job 'unet'; expected tokenizer, vae, vlm, vq-decoder, decoder")
    assert_refused("train", "vae", "--preset", "huge", words="unknown preset 'huge'; expected embedded, tiny")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1", "cannot read the config"),
        ("- a\n- b\n", "must hold a mapping"),
        pytest.param(
            b"\xff\xfe\xff",
            "cannot read the config",
        ),
    ],
)
def test_config_files_that_cannot_be_read(case, assert_refused, tiny, content, words):
    file = case.folder / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused("train", *tiny["vae"], "--config", file, words=words)


def test_a_config_file_that_is_missing(case, assert_refused, tiny):
    assert_refused("train", *tiny["vae"], "--config", case.folder / "nothing.yaml", words="cannot read the config")


def test_an_unknown_name_in_a_config_file_is_named(case, softdecode, tiny):
    file = case.text("loop:\n  stepz: 3\n", "config.yaml")
    result = softdecode("train", *tiny["vae"], "--config", file, "--output", case.output)
    assert result.code == 2
    assert "--loop.stepz" in result.err
    assert not case.output.exists()


def test_training_steps_below_one(case, assert_refused, tiny):
    assert_refused("train", *tiny["vae"], "--loop.steps", 0, words="steps=0")


@pytest.mark.parametrize(
    ("limit", "error"), [(0, ZeroDivisionError), (-1, AssertionError)], ids=["none", "all but the last"]
)
def test_a_limit_below_one(case, assert_refused, tiny, request, limit, error):
    assert_refused("train", *tiny["vae"], "--limit", limit, "--loop.steps", 1, words="limit")


def test_a_batch_smaller_than_the_number_of_decoders(assert_refused, tiny):
    assert_refused("train", *tiny["decoder"], "--loop.batch-size", 3, words="--loop.batch-size must be a multiple of 4")


@pytest.mark.parametrize("device", ["tpu", "cuda:7"])
def test_training_on_a_device_that_is_not_there(assert_refused, tiny, device):
    if torch.cuda.device_count() > 7:
        pytest.skip("this machine has eight CUDA devices")
    assert_refused("train", *tiny["vae"], "--device", device, words="device")


@pytest.mark.parametrize(
    ("job", "option", "words"),
    [
        ("vlm", "--tokenizer", "there is no folder"),
        ("decoder", "--vlm", "there is no folder"),
        ("decoder", "--vae", "there is no folder"),
        ("decoder", "--calibration", "cannot read"),
    ],
)
def test_parts_that_are_missing(case, assert_refused, tiny, job, option, words):
    assert_refused("train", *tiny[job], option, case.folder / "nothing", words=words)


def test_a_calibration_for_another_codebook(case, assert_refused, tiny):
    content = json.loads((case.stack.runs / "calibration" / "calibration.json").read_text())
    other = case.text(json.dumps(content | {"codebook_sha256": "0" * 64}), "calibration.json")
    assert_refused("train", *tiny["decoder"], "--calibration", other, words="was fitted for another codebook")


@pytest.mark.parametrize("kind", ["file", "under a file"])
def test_a_run_that_cannot_be_written(case, softdecode, tiny, kind):
    output = case.under_a_file() if kind == "under a file" else case.text("a file")
    result = softdecode("train", *tiny["vae"], "--output", output)
    assert result.code == 2
    assert len(result.said) == 1


def test_a_run_that_exists(case, softdecode, tiny):
    run = case.stack.runs / "vae"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = softdecode("train", *tiny["vae"], "--output", run)
    assert result.code == 2
    assert len(result.said) == 1
    assert "already holds a run; resume it, or choose another output folder" in result.said[0]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_nothing_to_resume(assert_refused, tiny):
    assert_refused("train", *tiny["vae"], "--resume", words="holds no checkpoint to resume from")


# --- evaluate, export, doctor -------------------------------------------------------------------------------------


def test_what_cannot_be_evaluated(case, assert_refused):
    usual = ["--model", case.stack.vlm, "--data", case.stack.data]
    hard = ["--decoders", case.stack.decoders / "hard"]
    for task in ("evaluate reconstruction", "evaluate generation"):
        assert_refused(task, *usual, "--decoder", hard[1], words="name the decoders to measure with --decoders")
        assert_refused(task, *usual, *hard, hard[1], words="two decoders are called hard")
        assert_refused(task, *usual, "--decoders", case.folder / "nothing", words="no such folder")
        assert_refused(task, *usual, *hard, "--steps", 0, words="--steps must be at least 1")
        assert_refused(task, *usual, *hard, "--batch-size", 0, words="--batch-size must be at least 1")
        assert_refused(task, *usual, *hard, "--device", "tpu", words="unknown device 'tpu'")
        assert_refused(task, *usual[:2], *hard, "--data", case.folder / "nothing", words="npm is not installed")
    assert_refused("evaluate reconstruction", *usual, *hard, "--limit", 0, words="--limit must be at least 1")
    too_many = "the data has 18 distinct captions, 100 were asked for"
    assert_refused("evaluate generation", *usual, *hard, "--prompts", 100, words=too_many)


def test_too_few_prompts_to_evaluate(case, assert_refused):
    usual = ["--model", case.stack.vlm, "--data", case.stack.data, "--decoders", case.stack.decoders / "hard"]
    assert_refused("evaluate generation", *usual, "--prompts", 1, words="--prompts must be at least 2, got 1")


def test_nan_while_evaluating(case, assert_refused):
    _, copy = case.copied()
    fill_with_nan(copy / "vlm" / "model.safetensors", "generation_head.vision_head.weight")
    options = ["--model", copy / "vlm", "--data", case.stack.data, "--decoders", case.stack.decoders / "hard"]
    assert_refused("evaluate generation", *options, "--prompts", 2, words="the logits hold NaN")


@pytest.mark.parametrize("missing", ["tokenizer", "vae", "vlm", "decoder"])
def test_runs_that_are_missing(case, assert_refused, missing):
    names = ("tokenizer", "vae", "vlm", "decoder")
    runs = {name: case.folder / "nothing" if name == missing else case.stack.runs / name for name in names}
    assert_refused("export", *(word for name in names for word in (f"--{name}", runs[name])), words="nothing")


def test_doctor_finds_damage(case, softdecode):
    models, copy = case.copied()
    truncate(copy / "decoders" / "joint" / "model.safetensors")
    result = softdecode("doctor", *models)
    assert (result.code, result.out) == (2, "")
    assert len(result.said) == 1
    assert "model.safetensors is damaged" in result.said[0]


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("vlm/model.safetensors", "generation_head.vision_head.weight"),
        ("decoders/joint/model.safetensors", "condition.projection.weight"),
        ("base/vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.weight"),
    ],
)
def test_doctor_finds_nan(case, softdecode, file, part):
    models, copy = case.copied()
    fill_with_nan(copy / file, part)
    assert softdecode("doctor", *models).code == 2


# --- what the libraries say ---------------------------------------------------------------------------------------


def test_the_line_is_the_only_one_of_the_process(case):
    """In a process of its own: transformers writes to the standard error that there was when it was imported."""
    models, copy = case.copied()
    path = copy / "vlm" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.generation_head.vision_head.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    command = [sys.executable, "-m", "softdecode.cli.main", "generate", "a", *map(str, models)]
    done = subprocess.run([*command, "--output", case.output], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("softdecode generate: error: the weights in ")
    assert "1 missing: model.generation_head.vision_head.bias" in line


def test_options_that_a_command_has_no_use_for(case, assert_refused):
    """Rather than to ignore them: calibrate and evaluate load the VLM alone, or other decoders."""
    for option in (["--offload", "model"], ["--quantize-base", "nf4"], ["--base", case.folder]):
        for command in ("calibrate", "evaluate reconstruction"):
            assert_refused(*command.split(), *option, words=f"no use for {option[0]}")
    assert_refused("calibrate", "--decoder", case.folder, words="no use for --decoder")
