"""GenEval's summary (Ghosh et al. 2023, 2310.11513), as the official evaluation/summary_scores.py computes it."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from softdecode.errors import SoftDecodeError

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
PROMPTS = 553


@dataclass(frozen=True, kw_only=True)
class GenevalSummary:
    """What GenEval reports of a set of judged pictures.

    Attributes:
        rows: one for each tag in the order of the file (`name`, `accuracy`, `correct`, `count`), then `overall`,
            whose accuracy is the mean over tags, not over pictures.
        images, prompts: how many were judged.
        correct_images: share of the pictures that are correct.
        correct_prompts: share of the prompts with at least one correct picture.
    """

    rows: list[dict[str, object]]
    images: int
    prompts: int
    correct_images: float
    correct_prompts: float

    @property
    def complete(self) -> bool:
        """Whether all tags and as many prompts as GenEval has are there."""
        return self.prompts == PROMPTS and {row["name"] for row in self.rows} == {*TAGS, "overall"}


def summarise_geneval(path: Path) -> GenevalSummary:
    """Summarise the results file of GenEval's evaluate_images.py.

    Args:
        path: JSON lines with `tag`, `correct` (true or false) and `metadata` (the prompt's line, as text).

    Raises:
        SoftDecodeError: the file cannot be read, is empty, or holds something else.
    """
    totals, correct = Counter[str](), Counter[str]()
    prompts: dict[str, bool] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            result = json.loads(line)
            tag, right, metadata = result["tag"], result["correct"], result["metadata"]
            if not (isinstance(tag, str) and isinstance(right, bool) and isinstance(metadata, str)):
                raise SoftDecodeError(f"{path}, line {number}: tag and metadata must be text, correct true or false")
            totals[tag] += 1
            correct[tag] += right
            prompts[metadata] = prompts.get(metadata, False) or right
    except OSError as error:
        raise SoftDecodeError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SoftDecodeError(
            f"{path} is not a results file of GenEval's evaluate_images.py (JSON lines with tag, correct and "
            f"metadata): {error!r}"
        ) from error
    if not totals:
        raise SoftDecodeError(f"{path} holds no results")
    rows: list[dict[str, object]] = [
        {"name": tag, "accuracy": correct[tag] / count, "correct": correct[tag], "count": count}
        for tag, count in totals.items()
    ]
    mean = sum(correct[tag] / count for tag, count in totals.items()) / len(totals)
    rows.append({"name": "overall", "accuracy": mean, "correct": correct.total(), "count": totals.total()})
    return GenevalSummary(
        rows=rows,
        images=totals.total(),
        prompts=len(prompts),
        correct_images=correct.total() / totals.total(),
        correct_prompts=sum(prompts.values()) / len(prompts),
    )
