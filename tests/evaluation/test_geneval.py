"""GenEval's summary, against numbers worked out by hand."""

import json

import pytest

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.geneval import TAGS, summarise_geneval


def write(path, results):
    lines = [
        {"filename": "x.png", "tag": tag, "prompt": prompt, "correct": correct, "reason": "", "metadata": prompt}
        for tag, prompt, correct in results
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_overall_is_the_mean_over_tags(tmp_path):
    """One tag has four pictures, one right; the other two, both right: 0.625, though half of all pictures are right."""
    results = [("counting", "a", True), ("counting", "a", False), ("counting", "b", False), ("counting", "b", False)]
    results += [("colors", "c", True), ("colors", "d", True)]
    summary = summarise_geneval(write(tmp_path / "results.jsonl", results))
    assert summary.rows == [
        {"name": "counting", "accuracy": 0.25, "correct": 1, "count": 4},
        {"name": "colors", "accuracy": 1.0, "correct": 2, "count": 2},
        {"name": "overall", "accuracy": 0.625, "correct": 3, "count": 6},
    ]
    assert (summary.images, summary.prompts) == (6, 4)
    assert summary.correct_images == 0.5
    assert summary.correct_prompts == 0.75, "a prompt is right if one of its pictures is"
    assert not summary.complete


def test_all_of_geneval_is_complete(tmp_path):
    results = [(TAGS[number % 6], str(number), number % 2 == 0) for number in range(553)]
    assert summarise_geneval(write(tmp_path / "results.jsonl", results)).complete
    assert not summarise_geneval(write(tmp_path / "fewer.jsonl", results[:-1])).complete


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no results"),
        ("not json\n", "is not a results file"),
        ('{"tag": "colors"}\n', "is not a results file"),
        ('{"tag": "colors", "correct": "yes", "metadata": "{}"}\n', "line 1: .* correct true or false"),
        ("[1]\n", "is not a results file"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "results.jsonl").write_text(text)
    with pytest.raises(SoftDecodeError, match=message):
        summarise_geneval(tmp_path / "results.jsonl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SoftDecodeError, match=r"cannot read .*nothing\.jsonl"):
        summarise_geneval(tmp_path / "nothing.jsonl")
