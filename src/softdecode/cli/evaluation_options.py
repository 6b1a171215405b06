"""What both evaluation commands share: the decoders to compare, where pictures go, and writing the results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.base import DecoderBase
from softdecode.cli.options import ModelOptions
from softdecode.decoder import DistributionDecoder, same_codebook, weights_sha256
from softdecode.decoder_config import base_location, read_config
from softdecode.device import resolve_placement
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.measurement import Measurement
from softdecode.evaluation.processes import Processes
from softdecode.evaluation.sinks import NpzFiles, PictureSink, PngFolder
from softdecode.evaluation.tables import table
from softdecode.files import write_json, write_text
from softdecode.images import save_image, to_pil
from softdecode.loading import load_pretrained
from softdecode.models import EMBEDDED
from softdecode.provenance import provenance
from softdecode.sheet import contact_sheet
from softdecode.training.jobs import VARIANTS
from softdecode.vlm.base import ImageTokenizer
from softdecode.vlm.janus_tokenizer import JanusTokenizer


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


def load_tuned(folder: Path | None, tokenizer: ImageTokenizer, models: ModelOptions) -> JanusTokenizer | None:
    """The tokenizer of `train vq-decoder`, for the row vq-tuned; its tokens must be those of `tokenizer`.

    Raises:
        SoftDecodeError: its codebook is another.
    """
    if folder is None:
        return None
    device, dtype = resolve_placement(models.device, models.dtype)
    tuned = JanusTokenizer(load_pretrained(JanusVQVAE, folder, dtype=dtype)).to(device)
    if not same_codebook(tuned.codebook, tokenizer.codebook):
        raise SoftDecodeError(f"{folder} has another codebook than the VLM; name what `train vq-decoder` made of it")
    return tuned


def decoder_settings(decoder: DistributionDecoder) -> dict[str, object]:
    """What a result file says of a decoder besides its name: mode, sampling, calibration and weights."""
    config, calibration = decoder.config, decoder.calibration
    return {
        "mode": config.mode,
        "source": config.source,
        "draft": config.draft,
        "noise_scale": config.noise_scale,
        "kappa": calibration.kappa,
        "epsilon": calibration.epsilon,
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "weights_sha256": weights_sha256(decoder),
    }


def _table_order(folder: Path) -> int:
    order = tuple(VARIANTS)
    return order.index(folder.name) if folder.name in order else len(order)


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Where each row's pictures go."""

    save_images: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Write every picture as DIR/ROW/NNNNNN.png."""
    npz: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Write each row's pictures as DIR/ROW.npz, arr_0 uint8 [N, H, W, 3], as ADM's evaluator takes them."""

    def sinks(self, processes: Processes) -> list[PictureSink]:
        sinks: list[PictureSink] = []
        if self.save_images is not None:
            sinks.append(PngFolder(self.save_images, processes))
        if self.npz is not None:
            sinks.append(NpzFiles(self.npz, processes))
        return sinks


def write_results(
    output: Path,
    measurement: Measurement,
    *,
    command: str,
    protocol: dict[str, object],
    metrics: dict[str, object],
    as_json: bool,
) -> None:
    """Write result.json, table.md and print one of them."""
    rows = [asdict(row) for row in measurement.rows]
    usual = next(row.frechet for row in measurement.rows if row.name == "vq")
    for row in rows:
        row["frechet_over_vq"] = row["frechet"] / usual
    result = {
        "command": command,
        "protocol": {**protocol, "metrics": metrics},
        "rows": rows,
        "provenance": provenance(),
    }
    columns = ["name", "condition", "steps", "bits_per_pixel", "frechet", "frechet_over_vq"]
    columns += ["kernel", "psnr", "ssim", "lpips", "seconds"]
    # What nothing has been measured of needs no column.
    columns = [name for name in columns if name == "steps" or any(row[name] is not None for row in rows)]
    text = measured_table(rows, columns, metrics)
    write_json(output / "result.json", result)
    write_text(output / "table.md", text + "\n")
    print(json.dumps(result) if as_json else text)


def measured_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str], metrics: Mapping[str, object]) -> str:
    """The table of some columns; Frechet distances are headed by the name that their extractor allows."""
    name = str(metrics["frechet_name"])
    headings = {column: column.replace("frechet", name) for column in columns}
    return table([{headings[column]: row.get(column) for column in columns} for row in rows], list(headings.values()))


def write_sheet(output: Path, measurement: Measurement, columns: dict[str, str], labels: Sequence[str]) -> None:
    """Write grid.png: the originals, where there are any, then the chosen rows' pictures, of all kept ones.

    Args:
        columns: heading to row, as in `Measurement.images`.
        labels: of the kept pictures.
    """
    sources = {} if measurement.originals is None else {"original": measurement.originals}
    sources |= {heading: measurement.images[name] for heading, name in columns.items()}
    rows = list(zip(*(to_pil(images) for images in sources.values()), strict=True))
    save_image(contact_sheet(list(sources), labels, rows, cell=96), output / "grid.png")
