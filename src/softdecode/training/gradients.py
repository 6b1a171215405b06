"""The gradients of one step: this process's part of the batch, in micro-batches."""

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from softdecode.seeds import derive_seed, generator_for
from softdecode.training.config import LoopConfig
from softdecode.training.parallel import Alone
from softdecode.training.sharding import whole


def compute_gradients(
    parallel: Alone, config: LoopConfig, accelerator: Accelerator, step: int, indices: Tensor
) -> dict[str, float]:
    """Leave the clipped gradients of a step in the parameters.

    Args:
        parallel: what is trained.
        config: how.
        accelerator: of the run.
        step: counted from 0.
        indices: [batch_size] sample indices of the whole step, the same on every process.

    Returns:
        The task's losses, means over the whole batch, and `grad_norm` before clipping.
    """
    task, parts = parallel.task, config.gradient_accumulation
    size = config.batch_size // (accelerator.num_processes * parts)
    device = next(task.parameters()).device
    seen: list[dict[str, Tensor]] = []
    for part in range(parts):
        first = (accelerator.process_index * parts + part) * size
        places = range(first, first + size)
        generators = [generator_for("sample", config.seed, step, place) for place in places]
        batch = task.batch(indices[first : first + size], generators)
        batch = {name: value.to(device) for name, value in batch.items()}
        torch.manual_seed(derive_seed("global", config.seed, step, first))  # for dropout inside library modules
        with nullcontext() if part + 1 == parts else parallel.unsynchronised():
            with torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext():
                losses = parallel.module(batch, step)
            (losses["loss"] / parts).backward()
        seen.append({name: value.detach().float() for name, value in losses.items()})
    trained = [p for p in task.parameters() if p.requires_grad]
    norm = whole(nn.utils.clip_grad_norm_(trained, config.max_grad_norm))
    sums = torch.stack([sum((losses[name] for losses in seen[1:]), seen[0][name]) for name in seen[0]]) / parts
    means = accelerator.reduce(sums, "mean")
    assert isinstance(means, Tensor)
    return dict(zip(seen[0], means.tolist(), strict=True)) | {"grad_norm": float(norm)}
