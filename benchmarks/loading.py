"""Peak memory of loading, as a ratio to the weights themselves: 1 is one copy, 2 would be two.

    python benchmarks/loading.py

Makes random checkpoints of some 0.5 GB in a temporary folder, and loads each in a process of its own, in float32 and
in bfloat16. Counted is anonymous memory (Linux): pages of a mapped file can be dropped at any time.
"""

import json
import multiprocessing
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn
from transformers import JanusConfig, JanusForConditionalGeneration, JanusVisionConfig, LlamaConfig
from transformers.models.janus.configuration_janus import JanusVQVAEConfig

from softdecode.base import load_base
from softdecode.loading import load_pretrained, save_quietly
from softdecode.provenance import provenance
from softdecode.shards import fill, read_shards
from softdecode.vlm.llamagen.gpt import GptConfig, LlamaGenGpt

GPT = GptConfig(
    dim=1024, layers=8, heads=16, ffn_dim=2816, codes=16_384, grid=16, condition_tokens=120, caption_dim=2048
)


def make_janus(folder: Path) -> None:
    text = LlamaConfig(hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=16)
    vision = JanusVisionConfig(projection_dim=1024, depth=2, num_hidden_layers=2)
    vq = JanusVQVAEConfig(projection_dim=1024, image_token_embed_dim=1024, num_hidden_layers=2, base_channels=32)
    config = JanusConfig(text_config=text, vision_config=vision, vq_config=vq)
    config.tie_word_embeddings = False
    save_quietly(JanusForConditionalGeneration(config), folder)


def load_janus(folder: Path, dtype: torch.dtype) -> nn.Module:
    return load_pretrained(JanusForConditionalGeneration, folder, dtype=dtype)


def make_shards(folder: Path) -> None:
    folder.mkdir()
    torch.save(LlamaGenGpt(GPT).state_dict(), folder / "pytorch_model.bin")


def load_shards(folder: Path, dtype: torch.dtype) -> nn.Module:
    with init_empty_weights(include_buffers=False):
        model = LlamaGenGpt(GPT)
    return fill(model, read_shards(folder), dtype, str(folder))


def make_base(folder: Path) -> None:
    sizes = {"num_layers": 1, "num_single_layers": 2, "num_attention_heads": 8, "in_channels": 384, "out_channels": 64}
    save_quietly(FluxTransformer2DModel(**sizes), folder / "transformer")
    save_quietly(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 64, 64, 64),
            latent_channels=16,
        ),
        folder / "vae",
    )


def load_flux(folder: Path, dtype: torch.dtype) -> nn.Module:
    return load_base(folder, dtype=dtype)


CASES: dict[str, tuple[Callable[[Path], None], Callable[[Path, torch.dtype], nn.Module]]] = {
    "transformers folder (Janus)": (make_janus, load_janus),
    "pickled shards (LlamaGen's transformer)": (make_shards, load_shards),
    "diffusers folder (FLUX-Fill)": (make_base, load_flux),
}


def anonymous_memory() -> int:
    """Bytes of this process that are backed by no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc/self/status, which only Linux has")


def measure(name: str, folder: Path, dtype: str, answer: "multiprocessing.Queue[tuple[int, int]]") -> None:
    """Load once and answer (peak bytes above what was there before, bytes of the weights)."""
    before = anonymous_memory()
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = CASES[name][1](folder, getattr(torch, dtype))
    done.set()
    watcher.join()
    answer.put((peak - before, sum(p.numel() * p.element_size() for p in model.parameters())))


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Measure the peak memory of loading."""

    def run(self) -> None:
        context = multiprocessing.get_context("spawn")
        ratios: dict[str, dict[str, float]] = {}
        with tempfile.TemporaryDirectory() as temporary:
            for number, (name, (make, _)) in enumerate(CASES.items()):
                folder = Path(temporary) / str(number)
                make(folder)
                for dtype in ("float32", "bfloat16"):
                    answer = context.Queue()
                    process = context.Process(target=measure, args=(name, folder, dtype, answer))
                    process.start()
                    peak, weights = answer.get()
                    process.join()
                    ratios.setdefault(name, {"weights_in_bytes": weights})[dtype] = round(peak / weights, 2)
        print(json.dumps({"peak_over_weights": ratios, "provenance": provenance()}, indent=2))


if __name__ == "__main__":
    tyro.cli(Loading).run()
