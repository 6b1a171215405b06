"""Bring trained parts into the layout that the library ships: half-precision weights, model cards, one folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import JanusForConditionalGeneration

from softdecode.data.emoji_packages import PACKAGES
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import DecoderConfig
from softdecode.files import atomic_folder, read_json
from softdecode.loading import load_pretrained, save_quietly

_NOTES = {
    "tokenizer": "VQ tokenizer, a transformers JanusVQVAE inside the VLM",
    "vae": "latent VAE, a diffusers AutoencoderKL",
    "vlm": "vision-language model, a transformers JanusForConditionalGeneration",
    "decoder": "soft decoders on one transformer, a diffusers FluxTransformer2DModel",
}


def export_stack(
    runs: dict[str, Path],
    output: Path,
    *,
    steps: int | None = None,
    noise_scale: float | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write `vlm/`, `base/`, `decoders/` and `README.md` into `output`, replacing it as a whole.

    Args:
        runs: the folders of the runs `tokenizer`, `vae`, `vlm` and `decoder`.
        output: folder of the stack.
        steps, noise_scale: of the decoders' sampling, see `DecoderConfig`; as trained where None.
        dtype: of the stored weights. float16 keeps three more bits than bfloat16, and small weights fit its range.
    """
    vlm, trained = runs["vlm"] / "model", runs["decoder"] / "model"
    given = {"steps": steps, "noise_scale": noise_scale}
    sampling: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with atomic_folder(output) as folder:
        save_quietly(load_pretrained(JanusForConditionalGeneration, vlm, dtype=dtype), folder / "vlm")
        for extra in vlm.iterdir():
            if not (folder / "vlm" / extra.name).exists() and extra.suffix in (".json", ".jinja", ".model"):
                shutil.copy(extra, folder / "vlm")
        for name, model_class in (("transformer", FluxTransformer2DModel), ("vae", AutoencoderKL)):
            model = load_pretrained(model_class, trained / "base", subfolder=name, dtype=dtype)
            save_quietly(model, folder / "base" / name)
        for source in sorted((trained / "decoders").iterdir()):
            decoder = DistributionDecoder.from_pretrained(source)
            decoder = _with_config(decoder, replace(decoder.config, vlm=output.name, **sampling))
            card = (source / "README.md").read_text(encoding="utf-8")
            decoder.save_pretrained(folder / "decoders" / source.name, card, dtype=dtype)
        (folder / "README.md").write_text(model_card(runs), encoding="utf-8")


def model_card(runs: dict[str, Path]) -> str:
    """The stack's model card: data, licences, commands, seeds and training time, from the runs' own records."""
    lines = [
        "# emoji64: the embedded text-to-emoji stack of softdecode",
        "",
        "Draws 64 px emoji from captions such as `noto red apple`. Small enough to run anywhere; made to show and test",
        "the method, not to be good at anything but emoji. Weights: Apache-2.0, as the code.",
        "",
        "## Data",
        "",
        "| npm package | what | licence |",
        "|---|---|---|",
    ]
    what = ("Noto pictures", "Twemoji pictures", "Fluent 3D pictures", "CLDR names and keywords")
    lines += [f"| {p.spec} | {kind} | {p.licence} |" for p, kind in zip(PACKAGES, what, strict=True)]
    lines += [
        "",
        "Twemoji graphics are © Twitter, Inc. and other contributors, licensed under CC-BY 4.0. Composited on white;",
        "10 % of the emoji families (skin tones, genders and vendors together) are held out for testing, by the",
        "SHA-256 of the family.",
        "",
        "## Training",
        "",
        "| part | command | samples | batch | steps | seed | hours | revision |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, note in _NOTES.items():
        record = read_json(runs[name] / "run.json")
        loop, revision = record["loop"], _short(record["provenance"]["git"])
        hours = training_seconds(runs[name]) / 3600
        lines.append(
            f"| {note} | `softdecode train {name}` | {record['job'].get('samples', '–')} | {loop['batch_size']} | "
            f"{loop['steps']} | {loop['seed']} | {hours:.2f} | {revision} |"
        )
    lines += ["", "Hours are of one CPU core each, bf16 autocast.", ""]
    return "\n".join(lines)


def training_seconds(run: Path) -> float:
    """Seconds spent training, from a run's log; the pieces of a resumed run add up."""
    total = last = 0.0
    piece = 0
    for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["resumed_at"] != piece or record["seconds"] < last:  # the clock of a resumed run starts again
            total += last
            piece = record["resumed_at"]
        last = record["seconds"]
    return total + last


def _with_config(decoder: DistributionDecoder, config: DecoderConfig) -> DistributionDecoder:
    changed = DistributionDecoder(config, decoder.base, decoder.codebook, decoder.calibration)
    changed.condition = decoder.condition
    return changed


def _short(revision: str | None) -> str:
    """The first letters of a revision, and whether files differed from it."""
    return "unknown" if revision is None else revision[:12] + ("-dirty" if revision.endswith("-dirty") else "")
