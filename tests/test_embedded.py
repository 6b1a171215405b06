"""The embedded stack: whole, plain library classes, small enough, and one codebook."""

import re

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import JanusForConditionalGeneration

from softdecode import SoftDecodePipeline
from softdecode.cli.main import main
from softdecode.loading import load_pretrained
from softdecode.models import DEFAULT_BASE, DEFAULT_VLM, EMBEDDED


def test_it_fits_into_60_megabytes():
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file()) <= 60e6


def test_its_parts_are_plain_library_classes():
    vlm = load_pretrained(JanusForConditionalGeneration, DEFAULT_VLM)
    assert vlm.config.vq_config.in_channels == 3
    load_pretrained(FluxTransformer2DModel, DEFAULT_BASE, subfolder="transformer")
    load_pretrained(AutoencoderKL, DEFAULT_BASE, subfolder="vae")


def test_the_doctor_finds_it_whole(capfd):
    assert main(["doctor"]) == 0
    assert "all weights loaded strictly" in capfd.readouterr().out


def test_its_pictures_do_not_depend_on_the_batch():
    pipe = SoftDecodePipeline.from_pretrained(device="cpu")
    prompts = ["noto red apple", "fluent police car", "twemoji red heart"]
    together = pipe(prompts, seed=[5, 6, 7], output_type="pt", num_inference_steps=2)
    alone = pipe(prompts[1], seed=6, output_type="pt", num_inference_steps=2)
    assert torch.equal(together.distribution.tokens[1:2], alone.distribution.tokens)
    assert (together.images[1:2].int() - alone.images.int()).abs().max() <= 1


def test_the_same_codebook_in_every_dtype():
    pipe = SoftDecodePipeline.from_pretrained(device="cpu", dtype="float32")
    half = SoftDecodePipeline.from_pretrained(device="cpu", dtype="bfloat16")
    assert torch.equal(pipe.vlm.tokenizer.codebook, half.vlm.tokenizer.codebook)


def test_it_names_no_path_of_the_machine_that_made_it():
    texts = [path.read_text(encoding="utf-8") for path in EMBEDDED.rglob("*") if path.suffix in (".json", ".md")]
    assert texts
    assert not any(re.search(r'": "(/[a-z]|[A-Z]:)', text) for text in texts)
