"""Ready settings of the training jobs, as functions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from softdecode.training.config import LoopConfig
from softdecode.training.decoder import TransformerConfig
from softdecode.training.jobs import DecoderJob, Job, PretrainedDecoderJob, TokenizerJob, VaeJob, VlmJob
from softdecode.training.tokenizer import TokenizerConfig
from softdecode.training.vae import VaeConfig
from softdecode.training.vlm import VlmConfig
from softdecode.vlm.base import SamplingConfig

RUNS = Path("runs")


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


def tiny_tokenizer() -> TokenizerJob:
    """A tokenizer of next to no size, to try the command out."""
    model = TokenizerConfig(codes=64, base_channels=32, channel_multiplier=(1, 1, 1, 1), continuous_steps=2)
    return TokenizerJob(output=RUNS / "tiny-tokenizer", loop=_tiny_loop(), model=model, hidden_size=32, limit=16)


def tiny_vae() -> VaeJob:
    """A VAE of next to no size."""
    model = VaeConfig(channels=(8, 8, 8), latent_channels=4, norm_groups=4)
    return VaeJob(output=RUNS / "tiny-vae", loop=_tiny_loop(), model=model, limit=16)


def tiny_vlm() -> VlmJob:
    """A VLM of next to no size."""
    return VlmJob(
        output=RUNS / "tiny-vlm",
        tokenizer=RUNS / "tiny-tokenizer" / "model",
        loop=_tiny_loop(),
        model=VlmConfig(hidden_size=32, intermediate_size=64, layers=2, heads=2, vocabulary=300),
        limit=16,
    )


def tiny_decoder() -> DecoderJob:
    """Decoders of next to no size."""
    return DecoderJob(
        output=RUNS / "tiny-decoder",
        vlm=RUNS / "tiny-vlm" / "model",
        vae=RUNS / "tiny-vae" / "model",
        calibration=RUNS / "tiny-calibration" / "calibration.json",
        loop=_tiny_loop(),
        transformer=TransformerConfig(layers=2, heads=2, head_dim=16),
        hidden_channels=8,
        views=1,
        limit=16,
        steps=2,
    )


def janus_pro_flux_fill() -> PretrainedDecoderJob:
    """The paper's decoder: attention and adapter of FLUX.1-Fill for Janus-Pro-7B, 50,000 steps of 32 (section 4.1).

    The paper's learning rate is lost in its text; ours is usual for tuning all of a layer.
    """
    return PretrainedDecoderJob(
        output=RUNS / "janus-pro-flux-fill",
        vlm="deepseek-community/Janus-Pro-7B",
        base="black-forest-labs/FLUX.1-Fill-dev",
        images="data/images",
        calibration=RUNS / "janus-pro-calibration" / "calibration.json",
        loop=LoopConfig(
            steps=50_000,
            batch_size=32,
            learning_rate=1e-5,
            warmup_steps=500,
            ema_decay=0.9999,
            checkpoint_activations=True,
            checkpoint_every=1000,
        ),
    )


def janus_pro_flux_fill_lora() -> PretrainedDecoderJob:
    """The same with LoRA in place of the attention's own weights: for less memory, and ten times the learning rate."""
    whole = janus_pro_flux_fill()
    return replace(
        whole,
        output=RUNS / "janus-pro-flux-fill-lora",
        trained="lora",
        lora_rank=64,
        lora_alpha=64.0,
        loop=replace(whole.loop, learning_rate=1e-4),
    )


def _tiny_loop() -> LoopConfig:
    return LoopConfig(steps=4, batch_size=4, warmup_steps=1, log_every=1, checkpoint_every=2)


PRESETS: dict[str, dict[str, Callable[[], Job]]] = {
    "embedded": {
        "tokenizer": embedded_tokenizer,
        "vae": embedded_vae,
        "vlm": embedded_vlm,
        "decoder": embedded_decoder,
    },
    "tiny": {"tokenizer": tiny_tokenizer, "vae": tiny_vae, "vlm": tiny_vlm, "decoder": tiny_decoder},
    "janus-pro-flux-fill": {"decoder": janus_pro_flux_fill},
    "janus-pro-flux-fill-lora": {"decoder": janus_pro_flux_fill_lora},
}
