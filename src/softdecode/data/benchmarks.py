"""Prompts of text-to-image benchmarks, in the form in which their authors publish them."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from softdecode.errors import SoftDecodeError
from softdecode.files import listing, read_json

Benchmark = Literal["geneval", "dpg", "mjhq", "parti"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkPrompt:
    """One prompt of a benchmark.

    Attributes:
        key: where its pictures go, as a relative path without suffix.
        prompt: what to draw.
        metadata: what the benchmark's own evaluation needs beside the pictures (GenEval's line), else empty.
    """

    key: str
    prompt: str
    metadata: dict[str, object]


def read_benchmark(benchmark: Benchmark, path: Path) -> list[BenchmarkPrompt]:
    """All prompts of a benchmark, in their order.

    Args:
        benchmark: `geneval` (evaluation_metadata.jsonl of djghosh13/geneval), `dpg` (the folder of .txt files of
            TencentQQGYLab/ELLA), `mjhq` (meta_data.json of playgroundai/MJHQ-30K) or `parti` (PartiPrompts.tsv).
        path: of that file or folder.

    Raises:
        SoftDecodeError: it cannot be read, or is not what the benchmark publishes.
    """
    readers = {"geneval": _geneval, "dpg": _dpg, "mjhq": _mjhq, "parti": _parti}
    try:
        prompts = readers[benchmark](path)
    except OSError as error:
        raise SoftDecodeError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SoftDecodeError(f"{path} is not {benchmark}'s file of prompts ({error!r})") from error
    outside = [prompt.key for prompt in prompts if PurePosixPath(prompt.key).is_absolute() or ".." in prompt.key]
    if outside:
        raise SoftDecodeError(f"{path}: {outside[0]!r} would be written outside the output folder")
    empty = [prompt.key for prompt in prompts if not prompt.prompt.strip()]
    if empty or not prompts:
        raise SoftDecodeError(f"{path} holds no prompt" + (f" for {empty[0]}" if empty else ""))
    return prompts


def _geneval(path: Path) -> list[BenchmarkPrompt]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        BenchmarkPrompt(key=f"{place:05d}", prompt=line["prompt"], metadata=line) for place, line in enumerate(lines)
    ]


def _dpg(path: Path) -> list[BenchmarkPrompt]:
    if not path.is_dir():
        raise SoftDecodeError(f"{path} is not a folder; DPG-Bench has a folder of prompts, a .txt file each")
    files = sorted(path.glob("*.txt"))
    if not files:
        raise SoftDecodeError(f"{path} holds {listing(path)}; expected DPG-Bench's prompts, a .txt file each")
    return [
        BenchmarkPrompt(key=file.stem, prompt=file.read_text(encoding="utf-8").strip(), metadata={}) for file in files
    ]


def _mjhq(path: Path) -> list[BenchmarkPrompt]:
    return [
        BenchmarkPrompt(key=f"{entry['category']}/{name}", prompt=entry["prompt"], metadata={})
        for name, entry in read_json(path).items()
    ]


def _parti(path: Path) -> list[BenchmarkPrompt]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [BenchmarkPrompt(key=f"{place:05d}", prompt=line["Prompt"], metadata={}) for place, line in enumerate(lines)]
