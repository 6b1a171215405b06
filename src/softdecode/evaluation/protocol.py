"""What must agree before two results may stand in one table.

A Frechet distance of 1,000 pictures is not one of 50,000, and one of another extractor is another quantity (spec
section 4). Everything a result says of how it was measured therefore counts, but for the few things that a table
compares (decoders, steps) or that only shift numbers by chance or rounding (seed, device, versions). A field that this
file does not know counts, too: it splits a table that might have been one, which is the harmless mistake.
"""

from collections.abc import Iterator, Mapping

# What rows of one table may differ in.
_FREE = {
    *("seed", "steps", "decoders", "vlm_seconds", "batch_size", "images", "images_sha256"),
    *("metrics.torchmetrics", "metrics.frechet_name"),  # the name follows from extractor and task
}
# Of `models`, only what draws, and only where something is drawn.
_DRAWING = ("model", "quantize_vlm")


def protocol_key(result: Mapping[str, object]) -> dict[str, object]:
    """What must agree for two results to stand in one table, as flat names ("metrics.extractor") to values.

    Args:
        result: the content of a result.json, with "command" and "protocol".

    Returns:
        A dictionary in the order of its names; equal for results that may share a table.
    """
    protocol = result.get("protocol")
    protocol = dict(protocol) if isinstance(protocol, Mapping) else {}
    models = protocol.pop("models", None)
    key: dict[str, object] = {"command": result.get("command")}
    if protocol.get("task") == "generation" and isinstance(models, Mapping):
        key |= {name: models.get(name) for name in _DRAWING}
    key |= dict(_flatten({name: value for name, value in protocol.items() if name not in _FREE}))
    # None is what was not asked for, which older files do not mention.
    return {name: key[name] for name in sorted(key) if name not in _FREE and key[name] is not None}


def differences(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """The fields in which two protocol keys differ, each as "name: one value against another"."""
    names = sorted(first.keys() | second.keys())
    return [
        f"{name}: {_said(first, name)} against {_said(second, name)}"
        for name in names
        if _said(first, name) != _said(second, name)
    ]


def _said(key: Mapping[str, object], name: str) -> str:
    return repr(key[name]) if name in key else "nothing"


def _flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
