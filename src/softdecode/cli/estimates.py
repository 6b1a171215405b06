"""`softdecode doctor --estimate`: what published models need, before they are fetched."""

import json
from dataclasses import asdict

from softdecode.device import resolve_device, resolve_dtype
from softdecode.evaluation.tables import table
from softdecode.memory.catalogue import VLMS
from softdecode.memory.estimate import estimate
from softdecode.provenance import provenance


def print_estimates(vlm: str | None, base: str | None, *, batch: int, dtype: str, as_json: bool) -> None:
    """Print a table, or JSON in bytes.

    Args:
        vlm: a name in the catalogue; all where None.
        base: a name in the catalogue; flux-fill where None.
        batch: images at a time.
        dtype: of weights and arithmetic; bfloat16 where auto.
        as_json: whether to print JSON.
    """
    kind = resolve_dtype("bfloat16" if dtype == "auto" else dtype, resolve_device("cpu"))
    base = base or "flux-fill"
    found = [e for name in ([vlm] if vlm else VLMS) for e in estimate(name, base, batch=batch, dtype=kind)]
    if as_json:
        sizes = [{**asdict(e), "peak": e.peak} for e in found]
        report = {"command": "doctor --estimate", "batch_size": batch, "dtype": str(kind), "estimates": sizes}
        print(json.dumps({**report, "provenance": provenance()}))
        return
    print(f"GB (1e9 bytes) with the base {base}, {batch} image(s) at a time, {str(kind).removeprefix('torch.')}\n")
    rows = [
        {
            "VLM": e.vlm,
            "offload": e.offload,
            "weights": "nf4" if e.quantization == "nf4" else f"{8 * kind.itemsize} bit",
            "VLM weights": _gigabytes(e.vlm_weights),
            "base weights": _gigabytes(e.base_weights),
            **{phase: _gigabytes(size) for phase, size in e.phases.items()},
            "peak": _gigabytes(e.peak),
        }
        for e in found
    ]
    print(table(rows, list(rows[0])))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}"
