"""`softdecode evaluate geneval`: the official summary of GenEval's judgements."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from softdecode.cli.options import parse
from softdecode.evaluation.geneval import summarise_geneval
from softdecode.evaluation.tables import table
from softdecode.files import file_sha256, write_json, write_text
from softdecode.provenance import provenance


@dataclass(frozen=True, kw_only=True)
class EvaluateGeneval:
    """Summarise what GenEval's evaluate_images.py said of drawn pictures, as its summary_scores.py does.

    Writes result.json and table.md.
    """

    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS.jsonl")]
    """The file that evaluate_images.py wrote."""
    output: Path = Path("outputs/evaluate-geneval")
    """Folder for the results."""
    json: bool = False
    """Print result.json instead of the table."""

    def run(self) -> None:
        summary = summarise_geneval(self.results)
        result = {
            "command": "evaluate geneval",
            "protocol": {
                "task": "geneval",
                "reference": "GenEval (Mask2Former and CLIP judge by its own evaluate_images.py)",
                "results": str(self.results),
                "results_sha256": file_sha256(self.results),
                "count": summary.images,
                "prompts": summary.prompts,
                "complete": summary.complete,
                "overall": "mean over tags",
            },
            "rows": summary.rows,
            "correct_images": summary.correct_images,
            "correct_prompts": summary.correct_prompts,
            "provenance": provenance(),
        }
        text = table(summary.rows, ["name", "accuracy", "correct", "count"])
        write_json(self.output / "result.json", result)
        write_text(self.output / "table.md", text + "\n")
        if not summary.complete:
            print(
                f"softdecode: warning: these are {summary.prompts} prompts with {len(summary.rows) - 1} tags, "
                "not the whole of GenEval (553 with 6)",
                file=sys.stderr,
            )
        print(json.dumps(result) if self.json else text)


def main(arguments: list[str]) -> None:
    parse(EvaluateGeneval, "evaluate geneval", arguments).run()
