"""The command line as a whole: finding commands, help, exit codes."""

import re
import subprocess
import sys

import pytest

from softdecode.cli import main as module
from softdecode.cli.main import COMMANDS, main
from softdecode.cli.options import check_positive
from softdecode.errors import SoftDecodeError

JOBS = ("tokenizer", "vae", "vlm", "decoder")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_all_of_them_are_listed(softdecode, arguments):
    result = softdecode(*arguments)
    assert result.code == 0
    assert all(command in result.out for command in COMMANDS)
    assert result.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(softdecode, command):
    result = softdecode(*command.split(), "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: softdecode {command}")
    assert result.err == ""


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("preset", ["tiny", "embedded"])
def test_every_training_job_has_help_with_its_presets_values(softdecode, job, preset):
    result = softdecode("train", job, "--preset", preset, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: softdecode train {job}")
    assert "--loop.steps" in result.out
    assert f"tiny-{job}" in result.out or preset == "embedded"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "train"])
def test_help_names_the_ranges_of_counts(softdecode, command):
    text = " ".join(softdecode(*command.split(), "--help").out.split())
    options = {part.split()[0]: part for part in re.split(r" (?=--[a-z])", text)}
    counts = {"--steps", "--batch-size", "--draws", "--encodes", "--limit", "--prompts"} & options.keys()
    if command in ("calibrate", "evaluate draw", "reconstruct"):
        counts.remove("--prompts")  # a file, or captions
    assert [option for option in sorted(counts) if ">= " not in options[option]] == []


@pytest.mark.parametrize("word", ["draw", "Generate", "evaluate", ""])
def test_an_unknown_command_is_named_beside_those_there_are(softdecode, word):
    result = softdecode(word)
    assert result.code == 2
    assert result.out == ""
    assert result.lines == [f"softdecode: error: unknown command {word!r}; expected {', '.join(COMMANDS)}"]


@pytest.mark.parametrize("arguments", [["--bogus"], ["--seed", "many"]])
def test_unknown_and_malformed_options_are_refused(softdecode, arguments):
    result = softdecode("generate", "a", *arguments)
    assert result.code == 2
    assert result.out == ""
    assert arguments[0] in result.err


def test_an_error_becomes_one_line_and_exit_code_2(softdecode, monkeypatch):
    class Failing:
        @staticmethod
        def main(_arguments):
            raise SoftDecodeError("first line\n  second line")

    monkeypatch.setattr(module.importlib, "import_module", lambda name: Failing)
    result = softdecode("generate", "a")
    assert (result.code, result.out) == (2, "")
    assert result.err == "softdecode generate: error: first line second line\n"


def test_an_interrupt_is_no_traceback(softdecode, monkeypatch):
    class Interrupted:
        @staticmethod
        def main(_arguments):
            raise KeyboardInterrupt

    monkeypatch.setattr(module.importlib, "import_module", lambda name: Interrupted)
    result = softdecode("evaluate", "generation")
    assert result.code == 130
    assert result.lines == ["softdecode evaluate generation: interrupted"]


def test_a_fault_of_the_program_is_not_hidden(monkeypatch):
    class Faulty:
        @staticmethod
        def main(_arguments):
            raise RuntimeError("a bug")

    monkeypatch.setattr(module.importlib, "import_module", lambda name: Faulty)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["generate"])


def test_the_usage_is_printed_without_importing_torch():
    code = "import sys; from softdecode.cli.main import main; main([]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- shared helpers -----------------------------------------------------------------------------------------------


def test_counts_below_one_are_named_as_on_the_command_line():
    check_positive(steps=None, batch_size=1)
    with pytest.raises(SoftDecodeError, match="--batch-size must be at least 1, got 0"):
        check_positive(steps=3, batch_size=0)
