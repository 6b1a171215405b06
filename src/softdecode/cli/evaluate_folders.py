"""`softdecode evaluate folders`: two picture sets against each other, whoever made them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from softdecode.cli.evaluation_options import measured_table
from softdecode.cli.metric_options import MetricOptions
from softdecode.cli.options import check_positive, parse
from softdecode.errors import SoftDecodeError
from softdecode.evaluation.folders import FolderRow, evaluate_folders, published_statistics
from softdecode.evaluation.image_sets import FolderSet, ImageSet, open_image_set
from softdecode.evaluation.measuring import Measuring
from softdecode.evaluation.metrics_protocol import metrics_protocol
from softdecode.evaluation.mjhq import check_mjhq, mjhq_pictures
from softdecode.evaluation.processes import Processes, joined_processes
from softdecode.evaluation.reference_features import ReferenceFeatures
from softdecode.files import write_json, write_text
from softdecode.progress import progress_bars
from softdecode.provenance import provenance


@dataclass(frozen=True, kw_only=True)
class EvaluateFolders:
    """Measure pictures against reference pictures: folders (sub-folders included) or ADM's .npz files.

    Writes result.json and table.md.
    """

    images: Annotated[Path, tyro.conf.arg(metavar="FOLDER|NPZ")]
    """What is measured."""
    references: Annotated[Path, tyro.conf.arg(metavar="FOLDER|NPZ")]
    """What it is compared with."""
    output: Path = Path("outputs/evaluate-folders")
    """Folder for the results."""
    layout: Literal["flat", "mjhq"] = "flat"
    """flat is one set; mjhq has a folder, and a row, for each category, on both sides."""
    metadata: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """MJHQ's meta_data.json; the one beside the references where absent."""
    paired: bool = False
    """Measure PSNR and SSIM, too, of pictures of one name (of one place, in .npz files)."""
    resize: int | None = None
    """Bring all pictures of folders to so many pixels a side: short side resized (bicubic), centre cropped."""
    cache: Path = Path("~/.cache/softdecode/features")
    """Folder where features of reference pictures are kept, by their contents."""
    batch_size: int = 64
    """Pictures measured at a time, >= 1."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""
    json: bool = False
    """Print result.json instead of the table."""
    metrics: Annotated[MetricOptions, tyro.conf.arg(name="")] = field(default_factory=MetricOptions)

    def run(self) -> None:
        check_positive(batch_size=self.batch_size, resize=self.resize)
        if self.metrics.lpips and not self.paired:
            raise SoftDecodeError("LPIPS compares pairs of pictures; say --paired, or leave --lpips out")
        if self.metadata is not None and self.layout != "mjhq":
            raise SoftDecodeError("--metadata belongs to --layout mjhq")
        with joined_processes() as processes:
            self._run(processes)

    def _run(self, processes: Processes) -> None:
        images, references, layout = self._sets()
        extractor, lpips = self.metrics.load(self.device)
        digest = references.digest() if processes.main else None
        with progress_bars(self.json or not processes.main) as bars:
            measuring = Measuring(
                extractor=extractor, lpips=lpips, batch_size=self.batch_size, processes=processes, on_progress=bars
            )
            rows = evaluate_folders(
                images,
                references,
                measuring,
                reference_digest=digest,
                paired=self.paired,
                categories=self.layout == "mjhq",
                cache=ReferenceFeatures(self.cache.expanduser()),
            )
        if not processes.main:
            return
        protocol: dict[str, object] = {
            "task": "folders",
            **layout,
            "reference": str(references.origin),
            "data_sha256": digest,
            "images": str(images.origin),
            "images_sha256": images.digest(),
            "paired": self.paired,
            "count": len(images),
            "reference_count": len(references),
            "resolution": list(images.size),
            "reference_resolution": list(references.size),
            "resizer": "none" if self.resize is None else f"Pillow bicubic, short side to {self.resize}",
            "crop": "none" if self.resize is None else f"centre {self.resize}x{self.resize}",
        }
        if published_statistics(references, measuring) is not None:
            protocol["frechet_reference"] = "mu and sigma"
        self._write(rows, protocol, metrics_protocol(extractor, lpips, task="folders"))

    def _sets(self) -> tuple[ImageSet, ImageSet, dict[str, object]]:
        """Both sets, and what the protocol says of their layout."""
        if self.layout == "flat":
            images = open_image_set(self.images, self.resize)
            return images, open_image_set(self.references, self.resize), {"layout": "flat"}
        images = open_image_set(mjhq_pictures(self.images), self.resize)
        references = open_image_set(mjhq_pictures(self.references), self.resize)
        if not (isinstance(images, FolderSet) and isinstance(references, FolderSet)):
            raise SoftDecodeError("MJHQ's layout is that of folders; .npz files have no categories")
        metadata = check_mjhq(images, references, self.metadata)
        return images, references, {"layout": "mjhq", "metadata": metadata}

    def _write(self, rows: Sequence[FolderRow], protocol: dict[str, object], metrics: dict[str, object]) -> None:
        result = {
            "command": "evaluate folders",
            "protocol": {**protocol, "metrics": metrics},
            "rows": [asdict(row) for row in rows],
            "provenance": provenance(),
        }
        columns = ["name", "count", "reference_count", "frechet", "kernel", "psnr", "ssim", "lpips"]
        shown = [name for name in columns if any(row[name] is not None for row in result["rows"])]
        text = measured_table(result["rows"], shown, metrics)
        write_json(self.output / "result.json", result)
        write_text(self.output / "table.md", text + "\n")
        print(json.dumps(result) if self.json else text)


def main(arguments: list[str]) -> None:
    parse(EvaluateFolders, "evaluate folders", arguments).run()
