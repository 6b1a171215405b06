"""The network of published FIDs: Inception-v3 of 2015, by torch-fidelity."""

import importlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractor import check_images
from softdecode.evaluation.extractors import ExtractorInfo
from softdecode.evaluation.weights import fetched, read_weights

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


class InceptionV3(nn.Module):
    """Frozen Inception-v3: pictures in, the 2048 pooled features behind FID out.

    Network, TensorFlow-compatible resize (bilinear, to 299 px, no antialiasing) and weights are torch-fidelity's
    `FeatureExtractorInceptionV3`, a port of the original graph. The module stays in evaluation mode.

    Args:
        weights: torch-fidelity's published file, or one in its format; fetched where None.

    Raises:
        SoftDecodeError: torch-fidelity or its torchvision is missing, or the weights cannot be read or do not fit.
    """

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        try:
            # By name, since the package is in no environment that types are checked in.
            extractor = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises RuntimeError
            raise SoftDecodeError(
                f"the extractor inception-v3 needs torch-fidelity, and a torchvision that fits torch ({error}): "
                "pip install softdecode[fid]"
            ) from error
        path = fetched(INCEPTION_URL, "--extractor-weights") if weights is None else weights
        tensors, digest = read_weights(path)
        # torch-fidelity unpickles its file without restriction, so it is handed a copy written here, of tensors alone.
        copy = io.BytesIO()
        torch.save(tensors, copy)
        copy.seek(0)
        try:
            network = extractor.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=copy
            )
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise SoftDecodeError(f"{path} does not hold the weights of FID's Inception-v3: {first}") from error
        self.network = network.requires_grad_(False).eval()
        self.info = ExtractorInfo(
            name="inception-v3-2015-12-05-2048",
            weights_sha256=digest,
            resizer="TensorFlow 1 bilinear, no antialiasing, whole picture to 299x299; then (value - 128) / 128",
            width=2048,
            is_fid=True,
        )

    def train(self, mode: bool = True) -> "InceptionV3":
        """Stay in evaluation mode: batch statistics would make features depend on the batch."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 2048] float32 of pictures [B, 3, H, W] uint8, on the device of the network.

        Raises:
            SoftDecodeError: `images` has another shape or dtype, or is empty.
        """
        check_images(images)
        (features,) = self.network(images.to(next(self.parameters()).device))
        return features
