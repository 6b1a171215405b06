"""The reconstruction half on photographs of 64 px: tokenizer, VAE and decoders, from the embedded stack's weights.

There is no VLM, so nothing draws; the calibration is fitted to statistics that are stated.
"""

from dataclasses import replace

from softdecode.models import EMBEDDED
from softdecode.training.config import LoopConfig
from softdecode.training.jobs import DecoderJob, TokenizerJob, VaeJob, VqDecoderJob
from softdecode.training.presets.embedded import embedded_decoder
from softdecode.training.presets.runs import RUNS
from softdecode.training.tokenizer import TokenizerConfig

PHOTOS = "data/photos/train-{000..004}.tar"


def photos_tokenizer() -> TokenizerJob:
    """64 px to 8×8 tokens of 2048 codes; no VLM is to predict them, so patches need not be alike in any context."""
    return TokenizerJob(
        output=RUNS / "photos-tokenizer",
        images=PHOTOS,
        initial=RUNS / "tokenizer" / "model",
        model=TokenizerConfig(locality=0.0, continuous_steps=200),
        loop=LoopConfig(steps=3400, batch_size=16, learning_rate=5e-4, ema_decay=0.998),
    )


def photos_vae() -> VaeJob:
    """64 px to 16×16 latents of 8 channels."""
    return VaeJob(
        output=RUNS / "photos-vae",
        images=PHOTOS,
        initial=EMBEDDED / "base" / "vae",
        loop=LoopConfig(steps=2200, batch_size=16, learning_rate=5e-4, ema_decay=0.998),
    )


def photos_vq_decoder() -> VqDecoderJob:
    """The VQ decoder trained further: a baseline."""
    return VqDecoderJob(
        output=RUNS / "photos-vq-decoder",
        images=PHOTOS,
        tokenizer=RUNS / "photos-tokenizer" / "model",
        loop=LoopConfig(steps=700, batch_size=16, learning_rate=5e-4, ema_decay=0.998),
    )


def photos_decoder() -> DecoderJob:
    """Hard, soft, calibrated and joint decoders on one transformer."""
    embedded = embedded_decoder()
    return replace(
        embedded,
        output=RUNS / "photos-decoder",
        images=PHOTOS,
        initial=EMBEDDED,
        vlm=RUNS / "photos-tokenizer" / "model",
        vae=RUNS / "photos-vae" / "model",
        calibration=RUNS / "photos-calibration" / "calibration.json",
        loop=replace(embedded.loop, steps=1700),
        views=1,
    )
