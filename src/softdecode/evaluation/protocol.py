"""When two results may stand in one table."""

from collections.abc import Mapping
from typing import Any

# Of a protocol: what pictures, how many, how prepared, and how drawn from. Neither seeds nor decoders: these are what
# is compared.
_PROTOCOL = (
    "task",
    "reference",
    "data_sha256",
    "prompts",
    "prompts_sha256",
    "layout",
    "paired",
    "count",
    "reference_count",
    "frechet_reference",
    "resolution",
    "resizer",
    "crop",
)
# Of its metrics: all but versions and names that follow from these.
_METRICS = ("extractor", "extractor_sha256", "resize", "frechet", "kernel", "psnr", "ssim", "lpips")


def protocol_key(result: Mapping[str, Any]) -> dict[str, object]:
    """What must be equal for the rows of two results to stand in one table.

    Args:
        result: content of a result.json.

    Returns:
        Names to values, all of them plain JSON; None for what a protocol does not say. Names of metrics begin with
        `metrics.`.
    """
    protocol = result.get("protocol", {})
    metrics = protocol.get("metrics", {})
    key: dict[str, object] = {"command": result.get("command")}
    key |= {name: protocol.get(name) for name in _PROTOCOL}
    return key | {f"metrics.{name}": metrics.get(name) for name in _METRICS}


def protocol_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names in which the protocols of two results differ; empty where they may stand in one table."""
    one, other = protocol_key(first), protocol_key(second)
    return [name for name in one if one[name] != other[name]]
