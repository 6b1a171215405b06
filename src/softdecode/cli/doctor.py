"""`softdecode doctor`: is a model folder whole, and does it work?"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn

from softdecode.cli.estimates import print_estimates
from softdecode.cli.options import ModelOptions, check_positive, parse
from softdecode.cli.training_estimates import print_training_estimates
from softdecode.decoder_config import base_location
from softdecode.errors import SoftDecodeError
from softdecode.files import file_sha256, tensor_sha256
from softdecode.images import to_uint8
from softdecode.mapping import hard_distribution
from softdecode.models import DEFAULT_DECODER, DEFAULT_VLM
from softdecode.pipeline import SoftDecodePipeline
from softdecode.provenance import provenance


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Load VLM and decoder strictly, look for NaN, compare codebooks, decode one picture both ways, and list hashes.

    With --estimate nothing is loaded: it prints the memory that published models need in each phase and mode. With
    --estimate-training it prints what training a decoder for them needs; that takes a minute or two.
    """

    estimate: bool = False
    """Print memory estimates for --model (janus-pro-7b and others; all where absent) and --base (flux-fill)."""
    estimate_training: bool = False
    """Print what training a decoder needs on each GPU, for --model (janus-pro-7b) and --base (flux-fill)."""
    batch_size: int | None = None
    """In the estimates, >= 1: images drawn at a time (1), or pictures in a training step over all GPUs (32)."""
    json: bool = False
    """Print the report as JSON."""
    models: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)

    def run(self) -> None:
        check_positive(batch_size=self.batch_size)
        if self.estimate or self.estimate_training:
            self._print_estimates()
            return
        if self.batch_size is not None:
            raise SoftDecodeError("--batch-size is for --estimate and --estimate-training; leave it out")
        pipe = self.models.load_pipeline()
        _check_finite("VLM", pipe.vlm)
        _check_finite("decoder", pipe.decoder)
        tokenizer = pipe.vlm.tokenizer
        codebook = tokenizer.codebook
        tokens = torch.zeros(1, *tokenizer.grid, dtype=torch.int64, device=pipe.vlm.device)
        vq = to_uint8(tokenizer.decode(tokens))
        soft = pipe.decode(hard_distribution(tokens, codebook), seeds=[0], num_inference_steps=1)
        files = {str(path): file_sha256(path) for folder in self._folders(pipe) for path in _weights(folder)}
        report = {
            "command": "doctor",
            "models": self.models.settings(),
            "device": str(pipe.decoder.device),
            "dtype": str(pipe.decoder.dtype),
            "vlm": {"name": pipe.vlm.name, "grid": tokenizer.grid, "image_size": tokenizer.image_size},
            "codebook": {"codes": len(codebook), "dim": codebook.shape[-1], "sha256": tensor_sha256(codebook)},
            "decoder": {
                "mode": pipe.decoder.config.mode,
                "steps": pipe.decoder.config.steps,
                "trained": pipe.decoder.config.trained,
            },
            "decoded": {"vq": list(vq.shape), "soft": list(soft.shape)},
            "sha256": files,
            "provenance": provenance(),
        }
        if self.json:
            print(json.dumps(report))
            return
        for name, value in report.items():
            print(f"{name}: {json.dumps(value)}")
        print("all weights loaded strictly; VQ and soft decoding work")

    def _print_estimates(self) -> None:
        models, batch = self.models, self.batch_size
        models.refuse("decoder", "offload", "quantize_vlm", "quantize_base")  # it prints all modes
        if self.estimate and self.estimate_training:
            raise SoftDecodeError("--estimate and --estimate-training are two reports; ask for one at a time")
        if self.estimate:
            print_estimates(models.model, models.base, batch=batch or 1, dtype=models.dtype, as_json=self.json)
            return
        if models.dtype != "auto":
            raise SoftDecodeError("training keeps frozen weights in bfloat16 and trained ones in float32; no --dtype")
        print_training_estimates(models.model, models.base, batch=batch, as_json=self.json)

    def _folders(self, pipe: SoftDecodePipeline) -> list[Path]:
        """Where the models' files are, as far as they are local folders."""
        config = pipe.decoder.config
        decoder = self.models.decoder or DEFAULT_DECODER
        base = self.models.base or base_location(decoder, config)
        places = [self.models.model or DEFAULT_VLM, base]
        return [Path(place) for place in (places if config.trained == "none" else [decoder, *places])]


def _check_finite(name: str, model: object) -> None:
    """Refuse weights with NaN or infinity, which would draw black pictures."""
    assert isinstance(model, nn.Module)
    bad = [key for key, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise SoftDecodeError(f"the {name} has NaN or infinite weights: {', '.join(bad)}; fetch it again")


def _weights(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json") and path.is_file())


def main(arguments: list[str]) -> None:
    parse(Doctor, "doctor", arguments).run()
