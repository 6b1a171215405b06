"""What soft decoding costs: VLM, VQ decoder and soft decoder in turn, in one process; ratios first.

    python benchmarks/latency.py --batch-size 8 --steps 1 4 8 --json outputs/latency.json

Each round runs every stage once, so that a slow moment of the machine hits all alike; medians are over the rounds.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from softdecode.cli.options import ModelOptions
from softdecode.decoder import weights_sha256
from softdecode.files import write_json
from softdecode.models import DEFAULT_DECODER
from softdecode.provenance import provenance


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time a pipeline's stages on one batch of prompts."""

    prompt: str = "noto red apple"
    """Drawn batch-size times, with other seeds."""
    batch_size: int = 8
    """Pictures at a time."""
    steps: tuple[int, ...] = (1, 4, 8)
    """Denoising steps to time."""
    rounds: int = 5
    """Timed rounds; one more before them warms up."""
    json: Path | None = None
    """File for the result, which is printed in any case; `softdecode report` reads it."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)

    def run(self) -> None:
        pipe = self.models.load_pipeline()
        seeds = list(range(self.batch_size))
        calibration = pipe.decoder.calibration
        distribution = pipe.vlm.sample([self.prompt] * self.batch_size, seeds=seeds, calibration=calibration)
        vq = pipe.decode_vq(distribution)
        stages: dict[str, Callable[[], object]] = {
            "vlm": lambda: pipe.vlm.sample([self.prompt] * self.batch_size, seeds=seeds, calibration=calibration),
            "vq": lambda: pipe.decode_vq(distribution),
        }
        for count in self.steps:
            stages[f"soft@{count}"] = lambda count=count: pipe.decode(
                distribution, seeds=seeds, vq_images=vq, num_inference_steps=count
            )
        seconds: dict[str, list[float]] = {name: [] for name in stages}
        for number in range(self.rounds + 1):
            for name, stage in stages.items():
                began = time.perf_counter()
                stage()
                if number:
                    seconds[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        usual = medians["vlm"] + medians["vq"]
        draft = medians["vq"] if pipe.decoder.config.draft else 0.0  # such decoders need the VQ picture first
        ways = {"vq": usual}  # from prompt to picture
        ways |= {n: medians["vlm"] + draft + s for n, s in medians.items() if n.startswith("soft")}
        # Weights that wait elsewhere while no layer computes cannot be hashed.
        waiting = any(value.is_meta for value in pipe.decoder.state_dict().values())
        identity = {} if waiting else {"weights_sha256": weights_sha256(pipe.decoder)}
        result = {
            "command": "latency",
            "ratio_to_vlm_and_vq": {name: round(value / usual, 3) for name, value in ways.items() if name != "vq"},
            "pipeline_seconds": ways,
            "median_seconds": {name: round(value, 4) for name, value in medians.items()},
            "batch_size": self.batch_size,
            "rounds": self.rounds,
            "device": str(pipe.decoder.device),
            "decoder": {
                "name": (self.models.decoder or DEFAULT_DECODER).name,
                "kappa": calibration.kappa,
                "epsilon": calibration.epsilon,
                **identity,
                **asdict(pipe.decoder.config),
            },
            "codebook_sha256": pipe.decoder.config.codebook_sha256,
            "models": self.models.settings(),
            "provenance": provenance(),
        }
        if self.json is not None:
            write_json(self.json, result)
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    tyro.cli(Latency).run()
