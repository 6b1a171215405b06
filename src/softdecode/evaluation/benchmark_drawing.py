"""Drawing a benchmark's prompts, with the VQ decoder and softly, into two trees of the same layout."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from softdecode.data.benchmarks import BenchmarkPrompt
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.benchmark_layout import BenchmarkLayout
from softdecode.evaluation.processes import ALONE, Processes
from softdecode.files import read_json, write_json
from softdecode.images import to_pil
from softdecode.pipeline import SoftDecodePipeline
from softdecode.vlm.base import SamplingConfig

TREES = ("vq", "soft")


def prompts_digest(prompts: Sequence[BenchmarkPrompt]) -> str:
    """SHA-256 of all keys and prompts."""
    content = [[prompt.key, prompt.prompt] for prompt in prompts]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def agree_on_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Record what pictures are drawn with, or check that those that are there were drawn so.

    Args:
        path: of the record.
        settings: plain JSON.

    Raises:
        SoftDecodeError: the record says something else, or pictures are there without one.
    """
    settings = json.loads(json.dumps(settings))  # as it comes back from a file
    if not path.exists():
        taken = [tree for tree in TREES if (path.parent / tree).exists()]
        if taken:
            raise SoftDecodeError(f"{path.parent} holds {taken[0]}/ but no {path.name}; choose another --output")
        write_json(path, settings)
        return
    found = read_json(path)
    different = sorted(name for name in {*found, *settings} if found.get(name) != settings.get(name))
    if different:
        raise SoftDecodeError(
            f"{path.parent} holds pictures of other settings ({', '.join(different)}; see {path.name}); "
            "choose another --output"
        )


def draw_benchmark(
    prompts: Sequence[BenchmarkPrompt],
    pipe: SoftDecodePipeline,
    layout: BenchmarkLayout,
    output: Path,
    *,
    seed: int,
    sampling: SamplingConfig,
    steps: int | None = None,
    batch_size: int = 16,
    processes: Processes = ALONE,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> int:
    """Draw what is not there yet. A prompt's pictures are written together, so that a stop loses a batch at most.

    Args:
        prompts: the benchmark's, from the first on: a prompt's place decides its seeds.
        pipe: VLM and decoder.
        layout: of both trees.
        output: the trees are its folders `vq` and `soft`.
        seed: picture s of prompt p has seed `seed` + p·samples + s.
        sampling: of the VLM.
        steps: of denoising; the decoder's own number where None.
        batch_size: pictures at a time; changes nothing.
        processes: those that share the prompts.
        on_progress: called with ("pictures", done, total) of this process.

    Returns:
        How many prompts were drawn now, on this process.
    """
    # What is missing is shared out, not all prompts: a run that is taken up again keeps every process busy.
    lacking = [
        place
        for place, prompt in enumerate(prompts if processes.main else ())
        if not all(layout.complete(output / tree, prompt) for tree in TREES)
    ]
    lacking = processes.from_main(lacking)
    missing = [lacking[place] for place in processes.share(len(lacking), 1)]
    jobs = [(place, sample) for place in missing for sample in range(layout.samples)]
    waiting: dict[str, list[Image.Image]] = {tree: [] for tree in TREES}
    written = 0
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        seeds = [seed + place * layout.samples + sample for place, sample in batch]
        distribution = pipe.sample([prompts[place].prompt for place, _ in batch], seeds=seeds, sampling=sampling)
        vq = pipe.decode_vq(distribution)
        soft = pipe.decode(distribution, seeds=seeds, vq_images=vq, num_inference_steps=steps)
        for tree, images in zip(TREES, (vq, soft), strict=True):
            waiting[tree] += to_pil(images)
        while len(waiting["vq"]) >= layout.samples:
            for tree in TREES:
                layout.write(output / tree, prompts[missing[written]], waiting[tree][: layout.samples])
                del waiting[tree][: layout.samples]
            written += 1
        if on_progress is not None:
            on_progress("pictures", start + len(batch), len(jobs))
    processes.wait()
    return written
