"""What training a decoder on a published base needs on each GPU, before anything is fetched or rented."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from softdecode.base import DecoderBase
from softdecode.errors import SoftDecodeError
from softdecode.latents import encode_images
from softdecode.memory.catalogue import BASES, VLMS, VlmSketch
from softdecode.memory.estimate import weight_bytes
from softdecode.memory.peak import PeakMemory, model_tensors
from softdecode.memory.training_state import Parallel, TrainingState, training_state
from softdecode.memory.training_step import StepSketch
from softdecode.trained import is_text, is_trained, trained_parameters
from softdecode.training.jobs import PretrainedDecoderJob

# (parallel, processes): one GPU, the paper's four, and eight
LAYOUTS: tuple[tuple[Parallel, int], ...] = (("single", 1), ("ddp", 4), ("fsdp2", 4), ("ddp", 8), ("fsdp2", 8))
MICRO_BATCHES = (8, 4, 1)  # pictures that a process computes at once, from most to least
GPU_BYTES = 80_000_000_000  # of the paper's A100


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of parameters.

    Attributes:
        transformer: of the base, as published; a Fill model's constant inputs included.
        trained: in all, with the condition encoder.
        condition: of the condition encoder (the paper's adapter).
        attention: of the transformer's attention, image side.
        attention_text: of its text side, which never has a gradient.
    """

    transformer: int
    trained: int
    condition: int
    attention: int
    attention_text: int


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """One way to train, on one process, in bytes.

    Attributes:
        parallel, processes: how the work is shared out.
        checkpointed: whether activations are recomputed in the backward pass.
        micro_batch: pictures computed at once: the most, of those tried, with which it fits; else the least.
        accumulation: micro-batches in one step.
        state: what stays from step to step.
        activations: the peak of what comes and goes.
    """

    parallel: Parallel
    processes: int
    checkpointed: bool
    micro_batch: int
    accumulation: int
    state: TrainingState
    activations: int

    @property
    def total(self) -> int:
        return self.state.total + self.activations


@dataclass(frozen=True, kw_only=True)
class EncoderRow:
    """The frozen models that encode pictures beside training, where features do not come from a cache, in bytes.

    Attributes:
        models: which.
        weights: of those that training does not hold anyway, on each process.
        working: the peak of encoding, by pictures at once; it is over when the step's activations begin.
    """

    models: str
    weights: int
    working: Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """Everything about one job."""

    counts: Counts
    rows: list[TrainingRow]
    encoders: list[EncoderRow]


def estimate_training(
    job: PretrainedDecoderJob, vlm: str, base: str, *, gpu_bytes: int = GPU_BYTES
) -> TrainingEstimate:
    """Estimates of a job, on so many GPUs, with and without recomputing activations.

    Nothing is loaded: weights are counted, and a step of the job's own task is run on tensors without data.

    Args:
        job: what is trained and with which batch; where its models lie does not matter.
        vlm, base: names in the catalogue, of the sizes.
        gpu_bytes: what a micro-batch should fit into.

    Raises:
        SoftDecodeError: an unknown name, or a batch that the processes cannot share.
    """
    for kind, name, known in (("VLM", vlm, VLMS), ("base", base, BASES)):
        if name not in known:
            raise SoftDecodeError(f"there is no size of a {kind} {name!r} on record; known are {', '.join(known)}")
    shares = {processes: _share(job.loop.batch_size, processes) for _, processes in LAYOUTS}
    drawing, decoding = VLMS[vlm](job.frozen_dtype), BASES[base](job.frozen_dtype)
    encoders = _encoders(drawing, decoding, job.frozen_dtype)
    sketch = StepSketch(job, decoding, drawing.tokenizer)
    peaks: dict[tuple[int, bool], int] = {}

    def activations(pictures: int, checkpointed: bool) -> int:
        if (pictures, checkpointed) not in peaks:
            peaks[pictures, checkpointed] = sketch.run(pictures, checkpointed=checkpointed)
        return peaks[pictures, checkpointed]

    rows = []
    for parallel, processes in LAYOUTS:
        state = training_state(sketch.decoder, parallel, processes)
        for checkpointed in (True, False):
            size, peak = _micro_batch(
                shares[processes], gpu_bytes - state.total, lambda m, c=checkpointed: activations(m, c)
            )
            rows.append(
                TrainingRow(
                    parallel=parallel,
                    processes=processes,
                    checkpointed=checkpointed,
                    micro_batch=size,
                    accumulation=shares[processes] // size,
                    state=state,
                    activations=peak,
                )
            )
    return TrainingEstimate(counts=_counts(sketch), rows=rows, encoders=encoders)


def _share(batch_size: int, processes: int) -> int:
    if batch_size % processes:
        raise SoftDecodeError(f"{processes} processes cannot share a batch of {batch_size}; use a multiple")
    return batch_size // processes


def _micro_batch(share: int, room: int, activations: Callable[[int], int]) -> tuple[int, int]:
    """The largest micro-batch that divides a process's share and has room, and its peak; the smallest if none has."""
    size, peak = 1, 0
    for size in (tried for tried in MICRO_BATCHES if share % tried == 0):
        peak = activations(size)
        if peak <= room:
            break
    return size, peak


def _counts(sketch: StepSketch) -> Counts:
    base = sketch.decoder.base
    own = {name: weight.numel() for name, weight in base.transformer.named_parameters() if ".lora_" not in name}
    masked = getattr(base, "masked_weight", None)
    plain = {name.replace(".base_layer.", "."): count for name, count in own.items()}
    attention_text = sum(count for name, count in plain.items() if ".attn." in name and is_text(name))
    return Counts(
        transformer=sum(own.values()) + (0 if masked is None else masked.numel()),
        trained=sum(weight.numel() for weight in trained_parameters(sketch.decoder).values()),
        condition=sum(weight.numel() for weight in sketch.decoder.condition.parameters()),
        attention=sum(count for name, count in plain.items() if is_trained(name, "attention")),
        attention_text=attention_text,
    )


@torch.no_grad()
def _encoders(vlm: VlmSketch, base: DecoderBase, dtype: torch.dtype) -> list[EncoderRow]:
    """Proxy conditions need the VQ encoder beside the VAE; teacher forcing needs the whole VLM."""
    known = model_tensors(vlm.module, base)

    def working(pictures: int, forced: bool) -> int:
        images = torch.empty(pictures, 3, *vlm.tokenizer.image_size, dtype=dtype, device="meta")
        with PeakMemory([*known, images]) as memory:
            vlm.tokenizer.features(images)
            encode_images(base.vae, images)
            if forced:
                vlm.force(pictures)
        return memory.peak

    tokenizer = vlm.tokenizer
    assert isinstance(tokenizer, torch.nn.Module)
    rows = (("VQ tokenizer", tokenizer, False), ("whole VLM, teacher forcing", vlm.module, True))
    return [
        EncoderRow(
            models=name,
            weights=weight_bytes(module),
            working={pictures: working(pictures, forced) for pictures in (1, max(MICRO_BATCHES))},
        )
        for name, module, forced in rows
    ]
