"""Settings that every training job shares."""

from dataclasses import dataclass
from typing import Literal

from softdecode.errors import SoftDecodeError
from softdecode.training.optimizer import OptimizerName


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a training job runs, whatever it trains."""

    steps: int
    """Optimiser steps in total; a resumed run goes on to this number."""
    batch_size: int = 32
    """Samples in one optimiser step."""
    optimizer: OptimizerName = "adamw"
    """adamw, or muon: Muon for the matrices inside transformer blocks and AdamW for everything else."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 200
    """Steps of linear warm-up from zero."""
    decay_fraction: float = 0.3
    """Last part of the steps, in [0, 1], in which the rate falls to zero; before it the rate is constant."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices and kernels only."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's moment decays."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    ema_decay: float = 0.999
    """Decay of the moving average of the trained weights, in [0, 1); the average is what is exported."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the forward pass: bf16 means autocast, the weights stay float32."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass instead of keeping them: much less memory, a third more computing."""
    compile: bool = False
    """Compile the repeated transformer blocks with torch.compile, where the task has any."""
    seed: int = 0
    """Seed of data order, augmentation and noise."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's default."""
    log_every: int = 50
    """Steps between log lines."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        limits = {
            "steps": self.steps >= 1,
            "batch_size": self.batch_size >= 1,
            "learning_rate": self.learning_rate > 0,
            "warmup_steps": self.warmup_steps >= 0,
            "decay_fraction": 0 <= self.decay_fraction <= 1,
            "ema_decay": 0 <= self.ema_decay < 1,
            "max_grad_norm": self.max_grad_norm > 0,
            "threads": self.threads >= 0,
            "log_every": self.log_every >= 1,
            "checkpoint_every": self.checkpoint_every >= 1,
        }
        wrong = [name for name, holds in limits.items() if not holds]
        if wrong:
            raise SoftDecodeError(
                f"training setting out of range: {', '.join(f'{n}={getattr(self, n)}' for n in wrong)}"
            )

    def rate_at(self, step: int) -> float:
        """The learning rate of optimiser step `step`, counted from 0: warm-up, constant, then 1 - sqrt decay.

        A constant stretch lets a finished run be continued with more steps; the decay's shape is that of
        Hägele et al. 2024 (arXiv 2405.18392).
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        decay_steps = self.decay_fraction * self.steps
        done = (step - (self.steps - decay_steps)) / max(decay_steps, 1)
        return self.learning_rate * (1 - max(done, 0) ** 0.5)
