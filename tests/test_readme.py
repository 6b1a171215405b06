"""The README's commands exist, its Python runs, and its files are there."""

import re
import shlex
from pathlib import Path

import pytest

from softdecode.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_command_is_one_of_the_script_or_of_softdecode():
    for command in commands():
        script, *words = shlex.split(command)
        assert script == "./run"
        assert words[0] in ("demo", "test") or words[0] in COMMANDS or " ".join(words[:2]) in COMMANDS


def test_the_python_example_runs(tmp_path, monkeypatch):
    (example,) = blocks("python")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})  # our own file
    assert {path.name for path in tmp_path.iterdir()} == {"soft.png", "vq.png"}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_leads_somewhere(target):
    assert target.startswith("http") or (ROOT / target).exists()


def test_the_first_generate_command_runs(tmp_path, capfd):
    words = next(shlex.split(command)[1:] for command in commands() if command.startswith("./run generate"))
    assert main([*words, "--output", str(tmp_path / "out"), "--steps", "2"]) == 0
    assert (tmp_path / "out" / "comparison.png").is_file()
    assert capfd.readouterr().out.startswith("wrote 2 pairs")
