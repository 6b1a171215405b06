"""A tiny stack, trained, calibrated and exported through the command line, that all tests of the commands share."""

import contextlib
import dataclasses
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from softdecode.cli.main import main
from softdecode.data.emoji import Emoji, family_of, split_of
from softdecode.files import tensor_sha256, write_json, write_tensors

TRAIN, TEST = 18, 6


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What can be read on standard error in the end: progress bars overwrite and clear their line."""
        shown = (line.rsplit("\r", 1)[-1].rstrip() for line in self.err.split("\n"))
        return [line for line in shown if line]

    @property
    def said(self) -> list[str]:
        """`lines` without those of transformers' own bars, which are tested on their own."""
        return [line for line in self.lines if not line.startswith(("Loading weights:", "Writing model shards:"))]


@pytest.fixture(scope="session")
def softdecode():
    """Run a command line."""

    def run(*arguments: object) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return Result(code=code, out=out.getvalue(), err=err.getvalue())

    return run


@pytest.fixture(scope="session")
def emoji_folder(tmp_path_factory):
    """Prepared emoji data as `data.emoji.prepare_emoji` writes it: coloured shapes, split by their families."""
    counts = {"train": TRAIN, "test": TEST}
    emoji, images = [], []
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for number in range(0x1F300, 0x1F700):
        code = f"{number:X}"
        split = split_of(family_of(code))
        if not counts[split]:
            continue
        counts[split] -= 1
        shape = ("disc", "box", "ring")[number % 3]
        row, column, reach = (torch.rand(3, generator=generator) * 16 + torch.tensor([24.0, 24.0, 8.0])).tolist()
        down, right = (rows - row).abs(), (columns - column).abs()
        inside = torch.hypot(down, right) < reach if shape != "box" else torch.maximum(down, right) < reach
        if shape == "ring":
            inside &= torch.hypot(down, right) > reach / 2
        image = torch.full((3, 64, 64), 255, dtype=torch.uint8)
        image[:, inside] = torch.randint(0, 220, (3, 1), generator=generator).to(torch.uint8)
        images.append(image)
        emoji.append(
            Emoji(
                style=("noto", "twemoji", "fluent")[number % 3],
                code=code,
                label=f"{shape} number {number % 1000}",
                keywords=(shape, "shape"),
                family=family_of(code),
                split=split,
            )
        )
    folder = tmp_path_factory.mktemp("emoji")
    stacked = torch.stack(images)
    write_tensors(folder / "emoji.safetensors", {"images": stacked})
    content = {
        "packages": [],
        "digest": tensor_sha256(stacked),
        "emoji": [dataclasses.asdict(record) for record in emoji],
    }
    write_json(folder / "emoji.json", content)
    return folder


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where everything lies."""

    data: Path
    runs: Path
    exported: Path
    vlm: Path
    decoders: Path

    @property
    def models(self) -> list[object]:
        """Options that name the exported models."""
        return ["--model", self.vlm, "--decoder", self.decoders / "joint"]


@pytest.fixture(scope="session")
def stack(softdecode, emoji_folder, tmp_path_factory):
    """All four jobs of the preset `tiny`, calibration and export; the tokenizer in two pieces, from a config file."""
    runs = tmp_path_factory.mktemp("runs")

    def run(*arguments):
        result = softdecode(*arguments)
        assert result.code == 0, result.err

    tiny = ["--preset", "tiny", "--data", emoji_folder, "--device", "cpu", "--loop.threads", 1]
    config = {"output": str(runs / "tokenizer"), "loop": {"steps": 2, "betas": [0.9, 0.95], "compile": False}}
    (runs / "config.yaml").write_text(yaml.safe_dump(config))
    with warnings.catch_warnings():
        # Said once a process, by torch: RMSNorms under autocast have bfloat16 activations and float32 weights.
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        run("train", "tokenizer", *tiny, "--config", runs / "config.yaml")
        run("train", "tokenizer", *tiny, "--config", runs / "config.yaml", "--loop.steps", 4, "--resume")
        run("train", "vae", *tiny, "--output", runs / "vae")
        run("train", "vlm", *tiny, "--output", runs / "vlm", "--tokenizer", runs / "tokenizer" / "model")
        vlm = runs / "vlm" / "model"
        run(
            *("calibrate", "--model", vlm, "--data", emoji_folder, "--output", runs / "calibration"),
            *("--draws", 4, "--encodes", 8, "--batch-size", 3),
        )
        run(
            *("train", "decoder", *tiny, "--output", runs / "decoder", "--vlm", vlm),
            *("--vae", runs / "vae" / "model", "--calibration", runs / "calibration" / "calibration.json"),
        )
    exported = runs / "stack"
    parts = [word for name in ("tokenizer", "vae", "vlm", "decoder") for word in (f"--{name}", runs / name)]
    run("export", "--output", exported, *parts, "--steps", 3, "--noise-scale", 0.9)
    return Stack(data=emoji_folder, runs=runs, exported=exported, vlm=exported / "vlm", decoders=exported / "decoders")
