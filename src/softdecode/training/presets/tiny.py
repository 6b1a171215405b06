"""Next to no size: to try the commands out in a minute."""

from softdecode.training.config import LoopConfig
from softdecode.training.decoder import TransformerConfig
from softdecode.training.jobs import DecoderJob, TokenizerJob, VaeJob, VlmJob, VqDecoderJob
from softdecode.training.presets.runs import RUNS
from softdecode.training.tokenizer import TokenizerConfig
from softdecode.training.vae import VaeConfig
from softdecode.training.vlm import VlmConfig


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


def tiny_vq_decoder() -> VqDecoderJob:
    """The tiny tokenizer's VQ decoder, trained further."""
    return VqDecoderJob(
        output=RUNS / "tiny-vq-decoder", tokenizer=RUNS / "tiny-tokenizer" / "model", loop=_tiny_loop(), limit=16
    )


def _tiny_loop() -> LoopConfig:
    return LoopConfig(steps=4, batch_size=4, warmup_steps=1, log_every=1, checkpoint_every=2)
