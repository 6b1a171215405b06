"""A training step without data: the real task, run forward and backward on tensors that only know their shapes."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from softdecode.base import DecoderBase
from softdecode.decoder import DistributionDecoder
from softdecode.memory.peak import PeakMemory, model_tensors
from softdecode.training.decoder import DecoderTask
from softdecode.training.features import Features, HeldFeatures
from softdecode.training.jobs import PretrainedDecoderJob
from softdecode.vlm.base import ImageTokenizer

# Fake tensors are meta tensors that say they are on a device. Autocast, which the bare meta device does not know, and
# fused attention then act as in a real run.
_DEVICE = "cpu"


@dataclass(frozen=True, kw_only=True)
class _Codes:
    """What the job asks of a tokenizer, with a codebook that has numbers."""

    codebook: Tensor
    grid: tuple[int, int]
    image_size: tuple[int, int]


class _MappedTask(DecoderTask):
    """Its features are mapped already: the mapping looks at its numbers, and here there are none."""

    def seen(self, decoder: DistributionDecoder, features: Features) -> tuple[Tensor, Tensor]:
        assert features.belief_codes is not None
        assert features.belief_uncertainty is not None
        return features.belief_codes.float(), features.belief_uncertainty.float()


class StepSketch:
    """A job's task, as large as in reality, and with gradients already there, as from the second micro-batch on.

    Args:
        job: whose decoder is trained; neither its files nor its models are touched.
        base: on the meta device, in the dtype of frozen weights; the sketch takes possession of it.
        tokenizer: the VLM's, on the meta device.

    Attributes:
        task: what is run; its tensors have no data.
        decoder: the only one in it.
        sample: a batch of one picture, of which the shapes matter.
    """

    def __init__(self, job: PretrainedDecoderJob, base: DecoderBase, tokenizer: ImageTokenizer) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._bf16 = job.loop.precision == "bf16"
        with torch.device("meta"):
            self.task = self.task_of(job, base, tokenizer)
        (self.decoder,) = (part for part in self.task.decoders.values() if isinstance(part, DistributionDecoder))
        self.sample = self.task.batch(torch.zeros(1, dtype=torch.int64), [torch.Generator().manual_seed(0)])
        with self._mode:
            _forget_data(self.task)
            for weight in self.task.parameters():
                weight.grad = torch.empty_like(weight) if weight.requires_grad else None

    @staticmethod
    def task_of(job: PretrainedDecoderJob, base: DecoderBase, tokenizer: ImageTokenizer) -> DecoderTask:
        """The job's task on given models, without calibration, on one picture of noise."""
        generator = torch.Generator().manual_seed(0)
        with torch.device("cpu"):
            codebook = torch.randn(tokenizer.codebook.shape, generator=generator)
            codes: Any = _Codes(
                codebook=nn.functional.normalize(codebook, dim=-1),
                grid=tokenizer.grid,
                image_size=tokenizer.image_size,
            )
            features = _one_picture(base, codes, generator)
        decoder = replace(job, calibration=None, initial=None).decoder(base, codes, "sketch")
        return _MappedTask({job.mode: decoder}, HeldFeatures(features))

    def run(self, pictures: int, *, checkpointed: bool) -> int:
        """Loss and gradients of a micro-batch of so many pictures.

        Args:
            pictures: >= 1.
            checkpointed: whether activations are recomputed in the backward pass.

        Returns:
            The peak, in bytes, of what comes and goes: activations, bfloat16 copies of trained weights, workspace.
        """
        if checkpointed:
            self.task.checkpoint_activations()
        else:
            self.decoder.base.transformer.disable_gradient_checkpointing()
        self.task.train()
        with self._mode:
            batch = {
                name: torch.empty(pictures, *value.shape[1:], dtype=value.dtype, device=_DEVICE)
                for name, value in self.sample.items()
            }
            gradients = [weight.grad for weight in self.task.parameters() if weight.grad is not None]
            known = [*model_tensors(self.task), *gradients, *batch.values()]
            with PeakMemory(known) as memory, warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "Mismatch dtype between input and weight", UserWarning
                )  # no kernel runs
                with torch.autocast(_DEVICE, torch.bfloat16, enabled=self._bf16):
                    losses = self.task(batch, 0)
                losses["loss"].backward()
        return memory.peak


def _forget_data(module: nn.Module) -> None:
    """Put tensors without data in place of all parameters and buffers; to be called under the fake mode."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(_like(weight), requires_grad=weight.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, _like(buffer))


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=_DEVICE)


def _one_picture(base: DecoderBase, tokenizer: _Codes, generator: torch.Generator) -> Features:
    """Features of noise, for the shapes of a batch."""
    rows, columns = base.token_grid(tokenizer.image_size)
    codes = torch.randn(1, *tokenizer.grid, tokenizer.codebook.shape[-1], generator=generator)
    latents = torch.randn(1, base.latent_channels, 2 * rows, 2 * columns, generator=generator)
    return Features(
        codes=codes,
        tokens=torch.zeros(1, *tokenizer.grid, dtype=torch.int32),
        latents=latents,
        drafts=latents,
        belief_codes=codes,
        belief_uncertainty=torch.rand(1, *tokenizer.grid, 4, generator=generator),
    )
