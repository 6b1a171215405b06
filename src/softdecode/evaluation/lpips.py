"""LPIPS (Zhang et al. 2018, 1801.03924), version 0.1 on VGG16: how different two pictures look.

The published libraries build their VGG16 by torchvision and fetch its weights as they are imported or made; this is
the same sum of layers, without torchvision and from a file that one names.
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.pairs import check_pairs
from softdecode.evaluation.weights import fetched, read_weights
from softdecode.files import load_strictly

LPIPS_NAME = "LPIPS 0.1, VGG16, pictures as they are"
VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_SMALLEST = 16  # four poolings by 2
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_TINY = 1e-10


class Lpips(nn.Module):
    """Frozen LPIPS-VGG16, two batches of pictures in, a distance for each pair out.

    The weights of the layers, learnt from people's judgements, come with torchmetrics.

    Args:
        weights: VGG16 for ImageNet as torchvision publishes it; fetched where None.

    Raises:
        SoftDecodeError: torchmetrics is missing, or the weights cannot be read or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        path = fetched(VGG16_URL, "--lpips-weights") if weights is None else weights
        tensors, self.weights_sha256 = read_weights(path)
        self.stages = _vgg16_stages()
        _load_vgg16(self.stages, tensors, str(path))
        self.weigh = nn.ModuleList(nn.Conv2d(stage[-1], 1, 1, bias=False) for stage in _STAGES)
        learnt, _ = read_weights(_learnt_weights())
        load_strictly(
            self.weigh.state_dict(),
            {f"{place}.weight": learnt[f"lin{place}.model.1.weight"] for place in range(len(_STAGES))},
            "torchmetrics' LPIPS weights",
        )
        self.register_buffer("mean", 255 * torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(_STD).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        """Distances [B] float32, 0 for equal pictures, of [B, 3, H, W] uint8 pairs of 16 pixels a side or more.

        Raises:
            SoftDecodeError: the batches are not pairs of pictures, or these are too small.
        """
        check_pairs(images, references)
        if min(images.shape[2:]) < _SMALLEST:
            raise SoftDecodeError(f"images are {list(images.shape[2:])} pixels, LPIPS needs {_SMALLEST} a side")
        a, b = (((batch.to(self.mean.device).float()) - self.mean) / self.std for batch in (images, references))
        total = torch.zeros(len(images), device=self.mean.device)
        for stage, weigh in zip(self.stages, self.weigh, strict=True):
            a, b = stage(a), stage(b)
            total += weigh((_unit(a) - _unit(b)).square()).mean(dim=(1, 2, 3))
        return total


def _unit(features: Tensor) -> Tensor:
    """Each position's features, scaled to length 1."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + _TINY)


def _vgg16_stages() -> nn.ModuleList:
    """VGG16's convolutions in five stages, each up to its last activation; all but the first begin by pooling."""
    stages, inputs = nn.ModuleList(), 3
    for number, widths in enumerate(_STAGES):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
        for width in widths:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        stages.append(nn.Sequential(*layers))
    return stages


def _load_vgg16(stages: nn.ModuleList, tensors: dict[str, Tensor], origin: str) -> None:
    """Fill the convolutions in their order; torchvision numbers the same layers through, as `features.N`."""
    found = {name: value for name, value in tensors.items() if name.startswith("features.")}
    published = sorted({name.rpartition(".")[0] for name in found}, key=lambda name: int(name.split(".")[1]))
    own = [name for name, layer in stages.named_modules() if isinstance(layer, nn.Conv2d)]
    if len(own) != len(published):
        raise SoftDecodeError(f"{origin} holds {len(published)} convolutions, expected the {len(own)} of VGG16")
    names = dict(zip(published, own, strict=True))
    renamed = {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in found.items()}
    load_strictly(stages.state_dict(), renamed, origin)


def _learnt_weights() -> Path:
    found = importlib.util.find_spec("torchmetrics")
    if found is None or found.origin is None:
        raise SoftDecodeError("torchmetrics is missing, LPIPS needs it: pip install softdecode[eval]")
    return Path(found.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth"
