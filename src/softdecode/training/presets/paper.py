"""The paper's decoder at its own scale, and a lighter form of it."""

from dataclasses import replace

from softdecode.training.config import LoopConfig
from softdecode.training.jobs import PretrainedDecoderJob
from softdecode.training.presets.runs import RUNS


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
