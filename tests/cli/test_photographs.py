"""The reconstruction half on pictures from a source, without a VLM: from tars to a table with every baseline."""

import io
import json
import tarfile
import warnings

import pytest
import torch
from PIL import Image

from softdecode.calibration import Calibration
from softdecode.decoder_config import read_config
from softdecode.files import read_json

DAMAGED = 5


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    """Twelve pictures of 64 px and a damaged one, as webdataset writes them."""
    path = tmp_path_factory.mktemp("photos") / "train-000.tar"
    generator = torch.Generator().manual_seed(0)
    with tarfile.open(path, "w") as archive:
        for number in range(13):
            small = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=generator)
            buffer = io.BytesIO()
            Image.fromarray(small.numpy()).resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG")
            data = buffer.getvalue()
            data = data[: len(data) // 3] if number == DAMAGED else data
            for name, content in ((f"p{number:03d}.jpg", data), (f"p{number:03d}.txt", b"shape number 3")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def clean(tar):
    """The same without the damaged one."""
    path = tar.with_name("val-000.tar")
    with tarfile.open(tar) as source, tarfile.open(path, "w") as archive:
        for member in source:
            if not member.name.startswith(f"p{DAMAGED:03d}"):
                archive.addfile(member, source.extractfile(member))
    return path


@pytest.fixture(scope="module")
def photos(stack, softdecode, tar, clean, tmp_path_factory):
    """VQ decoder, calibration and decoders of the tiny tokenizer, taught by the tar."""
    runs = tmp_path_factory.mktemp("photo-runs")
    tokenizer, vae = stack.runs / "tokenizer" / "model", stack.runs / "vae" / "model"

    def run(*arguments):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
            result = softdecode(*arguments)
        assert result.code == 0, result.err
        return result

    tiny = ["--preset", "tiny", "--data", runs, "--device", "cpu", "--loop.threads", 1, "--images", tar]
    tiny += ["--limit", 12]
    run("train", "vq-decoder", *tiny, "--output", runs / "vq-decoder", "--tokenizer", tokenizer)
    run(
        *("calibrate", "--model", tokenizer, "--images", clean, "--encodes", 8),
        *("--target-entropy", 0.4, "--target-top1", 0.3, "--output", runs / "calibration"),
    )
    run(
        *("train", "decoder", *tiny, "--output", runs / "decoder", "--vlm", tokenizer, "--vae", vae),
        *("--calibration", runs / "calibration" / "calibration.json"),
    )
    return runs


def test_damaged_pictures_are_left_out_and_listed(photos):
    for run in ("vq-decoder", "decoder"):
        (line,) = (photos / run / "unusable.jsonl").read_text().splitlines()
        assert json.loads(line)["key"].endswith(f"p{DAMAGED:03d}")
        assert read_json(photos / run / "run.json")["job"]["samples"] == 12


def test_the_calibration_reaches_what_was_stated(photos):
    calibration = Calibration.load(photos / "calibration" / "calibration.json")
    assert calibration.target is None
    assert calibration.reached.entropy == pytest.approx(0.4, abs=0.005)
    assert calibration.protocol["target"] == {"entropy": 0.4, "top1": 0.3}
    assert (photos / "calibration" / "profile.png").is_file()


def test_every_baseline_is_measured_and_the_report_has_them(photos, stack, softdecode, clean, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    decoders = [photos / "decoder" / "model" / "decoders" / name for name in ("hard", "soft")]
    result = softdecode(
        *("evaluate", "reconstruction", "--model", stack.runs / "tokenizer" / "model", "--images", clean),
        *("--decoders", *decoders, "--vq-decoder", photos / "vq-decoder" / "model", "--limit", 8, "--steps", 1, 2),
        *("--output", tmp_path / "results", "--device", "cpu", "--json"),
    )
    assert result.code == 0, result.err
    record = read_json(tmp_path / "results" / "result.json")
    names = [(row["name"], row["steps"]) for row in record["rows"]]
    assert names[:4] == [("vae-ceiling", None), ("vq", None), ("vq-tuned", None), ("vq-soft", None)]
    assert names[4:] == [("hard", 1), ("hard", 2), ("soft", 1), ("soft", 2)]
    assert record["protocol"]["source"] == str(clean)
    assert not record["protocol"]["whole_split"]
    rows = {row["name"]: row for row in record["rows"]}
    assert rows["vq-tuned"]["psnr"] > rows["vq"]["psnr"], "a few steps on the very pictures"
    made = softdecode("report", tmp_path / "results", "--output", tmp_path / "report", "--no-plots")
    assert made.code == 0, made.err
    assert "vq-tuned" in (tmp_path / "report" / "report.md").read_text()


def test_a_damaged_picture_is_no_part_of_a_measurement(photos, stack, softdecode, tar, tmp_path):
    decoder = photos / "decoder" / "model" / "decoders" / "hard"
    result = softdecode(
        *("evaluate", "reconstruction", "--model", stack.runs / "tokenizer" / "model", "--images", tar),
        *("--decoders", decoder, "--steps", 1, "--output", tmp_path, "--device", "cpu"),
    )
    assert result.code == 2
    assert "unusable.jsonl" in result.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--target-entropy", 0.4), "go together"),
        (("--target-entropy", 1.4, "--target-top1", 0.3), "[0, 1]"),
        ((), "--prompts and --images go together"),
    ],
)
def test_a_calibration_without_a_vlm_needs_a_whole_target(stack, softdecode, clean, tmp_path, arguments, named):
    tokenizer = stack.runs / "tokenizer" / "model"
    result = softdecode("calibrate", "--model", tokenizer, "--images", clean, *arguments, "--output", tmp_path)
    assert result.code == 2
    assert named in result.err


def test_a_tokenizer_alone_cannot_teach_the_vlms_belief(photos, stack, softdecode, tar):
    result = softdecode(
        *("train", "decoder", "--preset", "tiny", "--images", tar, "--output", photos / "forced", "--data", photos),
        *("--vlm", stack.runs / "tokenizer" / "model", "--vae", stack.runs / "vae" / "model", "--limit", 12),
        *("--calibration", photos / "calibration" / "calibration.json", "--variants", "soft-forced", "hard"),
    )
    assert result.code == 2
    assert "is a tokenizer" in result.err


@pytest.fixture(scope="module")
def forced(stack, softdecode, tmp_path_factory):
    """Decoders of the tiny VLM, trained on its own beliefs, with corrupted tokens."""
    output = tmp_path_factory.mktemp("forced")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        result = softdecode(
            *("train", "decoder", "--preset", "tiny", "--data", stack.data, "--device", "cpu", "--output", output),
            *("--vlm", stack.runs / "vlm" / "model", "--vae", stack.runs / "vae" / "model", "--corruption", 0.1),
            *("--calibration", stack.runs / "calibration" / "calibration.json"),
            *("--variants", "soft-forced", "joint-forced", "--loop.threads", 1),
        )
    assert result.code == 0, result.err
    return output / "model" / "decoders"


def test_teacher_forced_decoders_say_so_and_have_no_calibration(forced):
    for name, mode in (("soft-forced", "soft"), ("joint-forced", "joint")):
        config = read_config(forced / name)
        assert (config.mode, config.source) == (mode, "teacher-forced")
        calibration = Calibration.load(forced / name / "calibration.json")
        assert (calibration.kappa, calibration.epsilon) == (1.0, 0.0)


def test_teacher_forced_decoders_generate_reconstruct_and_are_measured(forced, stack, softdecode, tmp_path):
    usual = ["--device", "cpu", "--output", tmp_path / "out"]
    models = ["--model", stack.runs / "vlm" / "model", "--decoder", forced / "joint-forced", *usual]
    assert softdecode("generate", "noto disc number 3", *models).code == 0
    picture = tmp_path / "out" / "000-vq.png"
    for captions in ((), ("--prompts", "noto disc number 3")):
        result = softdecode("reconstruct", picture, *captions, *models)
        assert result.code == 0, result.err
    wrong = softdecode("reconstruct", picture, "--prompts", "a", "b", *models)
    assert wrong.code == 2
    assert "1 pictures need as many --prompts" in wrong.err
    pytest.importorskip("efficientnet_lite_pytorch")
    for task in ("reconstruction", "generation"):
        result = softdecode(
            *("evaluate", task, "--model", stack.runs / "vlm" / "model", "--data", stack.data, "--steps", 1),
            *("--decoders", forced / "soft-forced", *(("--prompts", 4) if task == "generation" else ()), *usual),
        )
        assert result.code == 0, result.err
        record = read_json(tmp_path / "out" / "result.json")
        assert record["protocol"]["decoders"]["soft-forced"]["source"] == "teacher-forced"
