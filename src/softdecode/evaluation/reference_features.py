"""Features of reference pictures, kept on the disk: they are the same in every evaluation."""

import hashlib
import json
from pathlib import Path

from torch import Tensor

from softdecode.evaluation.extractors import ExtractorInfo
from softdecode.files import read_tensors, write_tensors


class ReferenceFeatures:
    """Features [N, D] by what they depend on: the pictures' contents, their size, and the extractor.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: str, size: tuple[int, int], info: ExtractorInfo) -> Path:
        """The file of a picture set.

        Args:
            digest: of the set's contents.
            size: (height, width) that its pictures were brought to.
            info: of the extractor.
        """
        parts = [digest, list(size), info.name, info.weights_sha256, info.resizer]
        return self._folder / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.safetensors"

    def load(self, path: Path) -> Tensor | None:
        """What `save` wrote, if anything.

        Raises:
            SoftDecodeError: the file is damaged.
        """
        return read_tensors(path)[0]["features"] if path.is_file() else None

    def save(self, path: Path, features: Tensor) -> None:
        """Write features, atomically."""
        write_tensors(path, {"features": features})
