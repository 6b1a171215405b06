"""The embedded text-to-emoji stack."""

from dataclasses import replace

from softdecode.training.config import LoopConfig
from softdecode.training.jobs import DecoderJob, TokenizerJob, VaeJob, VlmJob, VqDecoderJob
from softdecode.training.presets.runs import RUNS
from softdecode.training.vlm import VlmConfig
from softdecode.vlm.base import SamplingConfig


def embedded_tokenizer() -> TokenizerJob:
    """The embedded stack's tokenizer: 64 px to 8×8 tokens of 2048 codes."""
    loop = LoopConfig(steps=4200, batch_size=16, learning_rate=5e-4, ema_decay=0.998)
    return TokenizerJob(output=RUNS / "tokenizer", loop=loop)


def embedded_vae() -> VaeJob:
    """The embedded stack's VAE: 64 px to 16×16 latents of 8 channels."""
    return VaeJob(output=RUNS / "vae", loop=LoopConfig(steps=4800, batch_size=16, learning_rate=5e-4, ema_decay=0.998))


def embedded_vlm() -> VlmJob:
    """The embedded stack's VLM."""
    return VlmJob(
        output=RUNS / "vlm",
        tokenizer=RUNS / "tokenizer" / "model",
        model=VlmConfig(rare_repeats=3),
        loop=LoopConfig(
            steps=7000,
            batch_size=64,
            optimizer="muon",
            learning_rate=2e-3,
            decay_fraction=0.4,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            compile=True,
        ),
        # A model that knows its captions by heart is far surer than it is right. A higher temperature would be nearer
        # to the truth, but its drawings decode worse (docs/results.md).
        sampling=SamplingConfig(guidance_scale=1.0, temperature=1.5, top_p=0.4),
    )


def embedded_decoder() -> DecoderJob:
    """The embedded stack's decoders."""
    return DecoderJob(
        output=RUNS / "decoder",
        vlm=RUNS / "vlm" / "model",
        vae=RUNS / "vae" / "model",
        calibration=RUNS / "calibration" / "calibration.json",
        loop=LoopConfig(
            steps=6000,
            batch_size=64,
            optimizer="muon",
            learning_rate=1e-3,
            decay_fraction=0.4,
            weight_decay=0.05,
            ema_decay=0.9985,
            compile=True,
        ),
        views=3,
    )


def embedded_vq_decoder() -> VqDecoderJob:
    """The embedded tokenizer's VQ decoder, trained further: a baseline."""
    loop = replace(embedded_tokenizer().loop, steps=1200)
    return VqDecoderJob(output=RUNS / "vq-decoder", tokenizer=RUNS / "tokenizer" / "model", loop=loop)
