"""`softdecode doctor --estimate-training`: what training a decoder at the paper's scale needs on each GPU."""

import json
from dataclasses import asdict, replace

from softdecode.evaluation.tables import table
from softdecode.memory.training import GPU_BYTES, TrainingEstimate, estimate_training
from softdecode.provenance import provenance
from softdecode.training.jobs import PretrainedDecoderJob
from softdecode.training.presets.paper import janus_pro_flux_fill, janus_pro_flux_fill_lora

_JOBS = {"janus-pro-flux-fill": janus_pro_flux_fill, "janus-pro-flux-fill-lora": janus_pro_flux_fill_lora}


def print_training_estimates(vlm: str | None, base: str | None, *, batch: int | None, as_json: bool) -> None:
    """Print tables, or JSON in bytes, for the presets of published models.

    Args:
        vlm: a name in the catalogue, in place of the presets' janus-pro-7b.
        base: a name in the catalogue, in place of the presets' flux-fill.
        batch: pictures in a step, over all processes; the presets' where None.
        as_json: whether to print JSON.
    """
    vlm, base = vlm or "janus-pro-7b", base or "flux-fill"
    found: dict[str, tuple[PretrainedDecoderJob, TrainingEstimate]] = {}
    for name, preset in _JOBS.items():
        job = preset()
        job = replace(job, loop=replace(job.loop, batch_size=batch or job.loop.batch_size))
        found[name] = job, estimate_training(job, vlm, base)
    if as_json:
        estimates = {name: _plain(estimate) for name, (_, estimate) in found.items()}
        report = {"command": "doctor --estimate-training", "vlm": vlm, "base": base, "estimates": estimates}
        print(json.dumps({**report, "provenance": provenance()}))
        return
    for name, (job, estimate) in found.items():
        print(f"{name}: {_counts(estimate, base)}\n")
        print(f"GB (1e9 bytes) on each GPU of {GPU_BYTES / 1e9:.0f}, {job.loop.batch_size} pictures in a step\n")
        print(_state_table(estimate) + "\n")
    print("Encoders on each GPU where features are not cached; working memory at so many pictures at once\n")
    print(_encoder_table(next(iter(found.values()))[1]))


def _counts(estimate: TrainingEstimate, base: str) -> str:
    counts = estimate.counts
    return (
        f"{_billions(counts.trained)} parameters are trained ({_billions(counts.condition)} of them the condition "
        f"encoder's), beside {base}'s {_billions(counts.transformer)}. Its attention has "
        f"{_billions(counts.attention + counts.attention_text)}, of which {_billions(counts.attention_text)} serve "
        "text alone and never have a gradient."
    )


def _state_table(estimate: TrainingEstimate) -> str:
    rows = [
        {
            "GPUs": str(row.processes),
            "parallel": row.parallel,
            "activations": "recomputed" if row.checkpointed else "kept",
            "at once × steps": f"{row.micro_batch} × {row.accumulation}",
            **{name: _gigabytes(size) for name, size in asdict(row.state).items()},
            "activations' peak": _gigabytes(row.activations),
            "total": _gigabytes(row.total) + ("" if row.total <= GPU_BYTES else " (does not fit)"),
        }
        for row in estimate.rows
    ]
    return table(rows, list(rows[0]))


def _encoder_table(estimate: TrainingEstimate) -> str:
    rows = [
        {
            "beside the VAE": row.models,
            "weights": _gigabytes(row.weights),
            **{f"working, {pictures}": _gigabytes(size) for pictures, size in row.working.items()},
        }
        for row in estimate.encoders
    ]
    return table(rows, list(rows[0]))


def _plain(estimate: TrainingEstimate) -> dict[str, object]:
    rows = [{**asdict(row), "total": row.total} for row in estimate.rows]
    return {"counts": asdict(estimate.counts), "rows": rows, "encoders": [asdict(row) for row in estimate.encoders]}


def _billions(count: int) -> str:
    return f"{count / 1e9:.3f}B"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}"
