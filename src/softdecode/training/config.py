"""Settings that every training job shares."""

import math
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
    """Samples in one optimiser step, over all processes and micro-batches."""
    gradient_accumulation: int = 1
    """Micro-batches that each process's share of a step is cut into, one after the other; spares memory."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """How several processes train together: ddp keeps the whole model on each, fsdp2 shares out weights, moving average
    and optimiser state. On one process it makes no difference."""
    checkpoint_activations: bool = False
    """Compute the activations inside transformer blocks again in the backward pass rather than keep them."""
    optimizer: OptimizerName = "adamw"
    """adamw, or muon: Muon for the matrices inside transformer blocks and AdamW for everything else."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 200
    """Steps of linear warm-up from zero."""
    schedule: Literal["constant-sqrt-decay", "cosine", "constant"] = "constant-sqrt-decay"
    """The rate after warm-up: constant and then falling to zero as 1 - sqrt; half a cosine to zero; or constant."""
    decay_fraction: float = 0.3
    """Of constant-sqrt-decay: the last part of the steps, in [0, 1], in which the rate falls to zero."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices and kernels only."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's moment decays."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    max_loss_ratio: float = 0.0
    """Stop when the loss, after warm-up, exceeds its running mean so many times; above 1, or 0 to never stop."""
    ema_decay: float = 0.999
    """Decay of the moving average of the trained weights, in [0, 1); the average is what is exported."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the forward pass: bf16 means autocast, the weights stay float32."""
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
    preview_every: int = 0
    """Steps between previews, made with the averaged weights; 0 makes none."""
    trackers: tuple[str, ...] = ()
    """Trackers that are told what the log is told, by accelerate's names: tensorboard, wandb and others."""

    def __post_init__(self) -> None:
        limits = {
            "steps": self.steps >= 1,
            "batch_size": self.batch_size >= 1,
            "gradient_accumulation": self.gradient_accumulation >= 1,
            "max_loss_ratio": self.max_loss_ratio == 0 or 1 < self.max_loss_ratio < math.inf,
            "preview_every": self.preview_every >= 0,
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
        """The learning rate of optimiser step `step`, counted from 0: warm-up, then as `schedule` says.

        A constant stretch lets a finished run be continued with more steps; the shape of its decay is that of
        Hägele et al. 2024 (arXiv 2405.18392).
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "cosine":
            done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        decay_steps = self.decay_fraction * self.steps
        done = (step - (self.steps - decay_steps)) / max(decay_steps, 1)
        return self.learning_rate * (1 - max(done, 0) ** 0.5)
