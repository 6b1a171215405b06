"""`softdecode train`: one of the training jobs, from a preset, a config file and options."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tyro
import yaml

from softdecode.cli.options import parse_with
from softdecode.errors import SoftDecodeError
from softdecode.training.presets import PRESETS

_JOBS = ("tokenizer", "vae", "vlm", "decoder")
_USAGE = f"""usage: softdecode train {{{",".join(_JOBS)}}} [--preset {{{",".join(PRESETS)}}}] [--config FILE] [options]

Train one part of the stack. The preset sets every option, a YAML file of options changes some, and options on the
command line change them last. `softdecode train tokenizer --help` lists them."""


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return
    kind, *rest = arguments
    if kind not in _JOBS:
        raise SoftDecodeError(f"unknown job {kind!r}; expected {', '.join(_JOBS)}")
    preset = _take(rest, "--preset") or "embedded"
    config = _take(rest, "--config")
    if preset not in PRESETS:
        raise SoftDecodeError(f"unknown preset {preset!r}; expected {', '.join(PRESETS)}")
    if kind not in PRESETS[preset]:
        raise SoftDecodeError(f"the preset {preset} is for {', '.join(PRESETS[preset])}, not for {kind}")
    default = PRESETS[preset][kind]()
    options = list(_as_options(_read_config(config))) if config else []
    job = parse_with(
        type(default), f"train {kind}", [*options, *rest], default=default, config=(tyro.conf.AvoidSubcommands,)
    )
    job.run()


def _take(arguments: list[str], name: str) -> str | None:
    """Remove `name VALUE` or `name=VALUE` from the arguments and return the value."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            del arguments[place]
            return argument.partition("=")[2]
    if name not in arguments:
        return None
    place = arguments.index(name)
    if place + 1 == len(arguments):
        raise SoftDecodeError(f"{name} needs a value")
    value = arguments[place + 1]
    del arguments[place : place + 2]
    return value


def _read_config(path: str) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SoftDecodeError(f"cannot read the config {path}: {reason}") from error
    if not isinstance(content, Mapping):
        raise SoftDecodeError(f"{path} must hold a mapping of option names to values")
    return content


def _as_options(values: Mapping[str, Any], prefix: str = "--") -> Iterator[str]:
    """Nested settings as command-line options, so that one parser checks both."""
    for name, value in values.items():
        option = f"{prefix}{str(name).replace('_', '-')}"
        if isinstance(value, Mapping):
            yield from _as_options(value, f"{option}.")
        elif isinstance(value, bool):
            head, _, last = option.rpartition(".")
            yield option if value else (f"{head}.no-{last}" if head else f"--no-{last[2:]}")
        else:
            yield option
            yield from map(str, value) if isinstance(value, list) else [str(value)]
