"""`softdecode evaluate draw`: a benchmark's pictures, for its own evaluation to judge."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from softdecode.cli.options import ModelOptions, SamplingOptions, check_positive, parse
from softdecode.data.benchmarks import Benchmark, read_benchmark
from softdecode.evaluation.benchmark_drawing import agree_on_settings, draw_benchmark, prompts_digest
from softdecode.evaluation.benchmark_layout import BenchmarkLayout
from softdecode.evaluation.processes import Processes, joined_processes
from softdecode.files import file_sha256, write_json
from softdecode.pipeline import SoftDecodePipeline
from softdecode.progress import progress_bars
from softdecode.provenance import provenance


@dataclass(frozen=True, kw_only=True)
class EvaluateDraw:
    """Draw a benchmark's prompts, with the VQ decoder and softly, in the layout that its evaluation reads.

    Writes the trees vq/ and soft/, settings.json and result.json. What is there already, of the same settings, is not
    drawn again, so that a stopped run can be taken up by the same command.
    """

    benchmark: Benchmark
    """geneval, dpg (DPG-Bench), mjhq (MJHQ-30K) or parti (PartiPrompts)."""
    prompts: Annotated[Path, tyro.conf.arg(metavar="FILE|FOLDER")]
    """Its prompts as published: evaluation_metadata.jsonl, a folder of .txt files, meta_data.json, PartiPrompts.tsv."""
    output: Path
    """Folder for both trees."""
    samples: int | None = None
    """Pictures of each prompt, >= 1; what the benchmark asks for where absent (geneval and dpg 4, else 1)."""
    limit: int | None = None
    """Draw only the first prompts, >= 1; the rest can follow later."""
    seed: int = 0
    """Seed of the first picture; the others count on from it."""
    steps: int | None = None
    """Denoising steps, >= 1; the decoder's own number where absent."""
    batch_size: int = 16
    """Pictures drawn at a time, >= 1; the pictures do not depend on it."""
    json: bool = False
    """Print result.json instead of progress."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)

    def run(self) -> None:
        check_positive(samples=self.samples, limit=self.limit, steps=self.steps, batch_size=self.batch_size)
        with joined_processes() as processes:
            self._run(processes)

    def _run(self, processes: Processes) -> None:
        layout = BenchmarkLayout.of(self.benchmark, self.samples)
        every = read_benchmark(self.benchmark, self.prompts)
        prompts = every[: self.limit]
        pipe = self.models.load_pipeline()
        sampling = self.sampling.over(pipe.vlm.defaults)
        settings: dict[str, object] = {
            "benchmark": self.benchmark,
            "prompts_sha256": prompts_digest(every),
            "samples": layout.samples,
            "seed": self.seed,
            "steps": self.steps or pipe.decoder.config.steps,
            "sampling": asdict(sampling),
            "models": self._models(pipe),
        }
        if processes.main:
            agree_on_settings(self.output / "settings.json", settings)
        processes.wait()
        with progress_bars(self.json or not processes.main) as bars:
            drawn = draw_benchmark(
                prompts,
                pipe,
                layout,
                self.output,
                seed=self.seed,
                sampling=sampling,
                steps=self.steps,
                batch_size=self.batch_size,
                processes=processes,
                on_progress=bars,
            )
        drawn = sum(processes.gather(drawn))
        if not processes.main:
            return
        count = len(prompts) * layout.samples
        result = {
            "command": "evaluate draw",
            "protocol": {
                "task": "draw",
                **settings,
                "count": count,
                "whole": len(prompts) == len(every),
                "resolution": list(pipe.vlm.tokenizer.image_size),
            },
            "rows": [{"name": tree, "prompts": len(prompts), "pictures": count} for tree in ("vq", "soft")],
            "provenance": provenance(),
        }
        write_json(self.output / "result.json", result)
        said = f"drew {drawn} of {len(prompts)} prompts, the others were there; see vq and soft in {self.output}"
        print(json.dumps(result) if self.json else said)

    def _models(self, pipe: SoftDecodePipeline) -> dict[str, object]:
        """Of the models, what the pictures depend on: not where they run, but the very weights of the decoder."""
        given = {name: value for name, value in self.models.settings().items() if name not in ("device", "offload")}
        weights = None if self.models.decoder is None else file_sha256(self.models.decoder / "model.safetensors")
        return {
            **given,
            "dtype": str(pipe.decoder.dtype).removeprefix("torch."),
            "decoder_config": asdict(pipe.decoder.config),
            "decoder_sha256": weights,
            "epsilon": pipe.decoder.calibration.epsilon,
        }


def main(arguments: list[str]) -> None:
    parse(EvaluateDraw, "evaluate draw", arguments).run()
