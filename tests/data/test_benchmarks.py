"""Benchmarks' prompts in their published forms."""

import json

import pytest

from softdecode.data.benchmarks import read_benchmark
from softdecode.errors import SoftDecodeError


def test_geneval(tmp_path):
    lines = [{"tag": "colors", "prompt": "a red cow"}, {"tag": "counting", "prompt": "two cows"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_benchmark("geneval", tmp_path / "x.jsonl")
    assert [(prompt.key, prompt.prompt, prompt.metadata) for prompt in found] == [
        ("00000", "a red cow", lines[0]),
        ("00001", "two cows", lines[1]),
    ]


def test_dpg(tmp_path):
    for name in ("partiprompts7", "1"):
        (tmp_path / f"{name}.txt").write_text(f"a picture of {name}\n")
    found = read_benchmark("dpg", tmp_path)
    assert [(prompt.key, prompt.prompt) for prompt in found] == [
        ("1", "a picture of 1"),
        ("partiprompts7", "a picture of partiprompts7"),
    ]


def test_mjhq(tmp_path):
    (tmp_path / "meta_data.json").write_text(json.dumps({"f00": {"category": "plants", "prompt": "a garden"}}))
    (found,) = read_benchmark("mjhq", tmp_path / "meta_data.json")
    assert (found.key, found.prompt) == ("plants/f00", "a garden")


def test_parti(tmp_path):
    """Quotes in the file are part of the prompts."""
    text = 'Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tx\na "stop" sign\tSigns\tBasic\t\n'
    (tmp_path / "x.tsv").write_text(text)
    found = read_benchmark("parti", tmp_path / "x.tsv")
    assert [(prompt.key, prompt.prompt) for prompt in found] == [("00000", "bond"), ("00001", 'a "stop" sign')]


@pytest.mark.parametrize(
    ("benchmark", "text", "message"),
    [
        ("geneval", '{"tag": "colors"}\n', "is not geneval's file of prompts"),
        ("geneval", "", "holds no prompt"),
        ("geneval", '{"prompt": " "}\n', "holds no prompt for 00000"),
        ("mjhq", '{"a": {"prompt": "x"}}', "is not mjhq's file of prompts"),
        ("mjhq", '{"a": {"prompt": "x", "category": "../../b"}}', "outside the output folder"),
        ("mjhq", "no json", "is not valid JSON"),
        ("parti", "Text\nbond\n", "is not parti's file of prompts"),
        ("dpg", "a prompt", "is not a folder"),
    ],
)
def test_other_files_are_refused(tmp_path, benchmark, text, message):
    (tmp_path / "prompts").write_text(text)
    with pytest.raises(SoftDecodeError, match=message):
        read_benchmark(benchmark, tmp_path / "prompts")
    with pytest.raises(SoftDecodeError, match=r"cannot read|is not a folder"):
        read_benchmark(benchmark, tmp_path / "nothing")
