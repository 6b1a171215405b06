"""What both evaluation commands share: the decoders to compare, the extractor, and writing the results."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from softdecode.base import DecoderBase
from softdecode.cli.options import ModelOptions
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import base_location, read_config
from softdecode.device import resolve_device, resolve_placement
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractor import EfficientNetLite0
from softdecode.evaluation.metrics import METRICS_PROTOCOL
from softdecode.evaluation.rows import Measurement
from softdecode.evaluation.tables import table
from softdecode.files import write_json, write_text
from softdecode.images import save_image, to_pil
from softdecode.models import EMBEDDED
from softdecode.provenance import provenance
from softdecode.sheet import contact_sheet


def load_decoders(folders: Sequence[Path], models: ModelOptions) -> dict[str, DistributionDecoder]:
    """Decoders by their folders' names, on one base that is loaded once; the embedded ones where none are named."""
    if not folders and not (EMBEDDED / "decoders").is_dir():
        raise SoftDecodeError("the embedded decoders are not installed; name decoders with --decoders")
    chosen = list(folders) or sorted((EMBEDDED / "decoders").iterdir(), key=_table_order)
    device, dtype = resolve_placement(models.device, models.dtype)
    bases: dict[tuple[str, str | None], DecoderBase] = {}
    decoders = {}
    for folder in chosen:
        config = read_config(folder)
        location = str(base_location(folder, config))
        base = bases.get((location, config.base_revision)) if config.trained == "adapter" else None
        decoder = DistributionDecoder.from_pretrained(folder, base=base, device=device, dtype=dtype)
        if config.trained == "adapter":
            bases[location, config.base_revision] = decoder.base
        if folder.name in decoders:
            raise SoftDecodeError(f"two decoders are called {folder.name}; rename a folder")
        decoders[folder.name] = decoder
    return decoders


def decoder_settings(decoder: DistributionDecoder) -> dict[str, object]:
    """What a result file says of a decoder besides its name: mode, sampling and calibration."""
    config, calibration = decoder.config, decoder.calibration
    return {
        "mode": config.mode,
        "draft": config.draft,
        "noise_scale": config.noise_scale,
        "kappa": calibration.kappa,
        "epsilon": calibration.epsilon,
    }


def _table_order(folder: Path) -> int:
    order = ("hard", "soft-raw", "soft", "joint")
    return order.index(folder.name) if folder.name in order else len(order)


def load_extractor(models: ModelOptions) -> EfficientNetLite0:
    """The embedded metrics' feature extractor, on the chosen device."""
    return EfficientNetLite0().to(resolve_device(models.device))


def write_results(
    output: Path,
    measurement: Measurement,
    *,
    command: str,
    protocol: dict[str, object],
    as_json: bool,
) -> None:
    """Write result.json, table.md and print one of them."""
    rows = [asdict(row) for row in measurement.rows]
    usual = next(row.frechet for row in measurement.rows if row.name == "vq")
    for row in rows:
        row["frechet_over_vq"] = row["frechet"] / usual
    result = {
        "command": command,
        "protocol": {**protocol, "metrics": METRICS_PROTOCOL},
        "rows": rows,
        "provenance": provenance(),
    }
    columns = [
        "name",
        "condition",
        "steps",
        "bits_per_pixel",
        "frechet",
        "frechet_over_vq",
        "kernel",
        "psnr",
        "ssim",
        "seconds",
    ]
    if all(row["psnr"] is None for row in rows):
        columns = [column for column in columns if column not in ("psnr", "ssim")]
    text = table(rows, columns)
    write_json(output / "result.json", result)
    write_text(output / "table.md", text + "\n")
    print(json.dumps(result) if as_json else text)


def write_sheet(
    output: Path, measurement: Measurement, columns: dict[str, str], labels: Sequence[str], places: Sequence[int]
) -> None:
    """Write grid.png: the reference, then the chosen rows' pictures, of the images at `places`.

    Args:
        columns: heading to row name, as in `Measurement.images`.
        labels: of all images.
    """
    sources = {"original": measurement.reference} if measurement.paired else {}
    sources |= {heading: measurement.images[name] for heading, name in columns.items()}
    index = torch.tensor(list(places))
    rows = list(zip(*(to_pil(images[index]) for images in sources.values()), strict=True))
    save_image(contact_sheet(list(sources), [labels[place] for place in places], rows, cell=96), output / "grid.png")
