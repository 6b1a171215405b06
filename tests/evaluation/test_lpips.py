"""LPIPS with random VGG16 weights, against torchmetrics' network of the same weights."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from softdecode.errors import SoftDecodeError
from softdecode.files import file_sha256

pytest.importorskip("softdecode.evaluation.torchmetrics")

from softdecode.evaluation.lpips import Lpips

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_features():
    """torchvision's VGG16 without its classifier."""
    layers, inputs = [], 3
    for widths in STAGES:
        for width in widths:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def features():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vgg16_features()


@pytest.fixture(scope="module")
def weights(features, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    classifier = {"classifier.0.weight": torch.zeros(2, 2)}
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()} | classifier, path)
    return path


@pytest.fixture(scope="module")
def lpips(weights):
    return Lpips(weights)


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 4, 3, 32, 40), dtype=torch.uint8, generator=generator)


def test_it_is_the_lpips_of_torchmetrics(lpips, features, pair, monkeypatch):
    from torchmetrics.functional.image import lpips as module

    torchvision = ModuleType("torchvision")
    torchvision.models = ModuleType("torchvision.models")
    torchvision.models.vgg16 = lambda weights: type("Vgg", (), {"features": features})
    torchvision.models.VGG16_Weights = type("Weights", (), {"DEFAULT": "ours"})
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setattr(module, "_TORCHVISION_AVAILABLE", True)
    reference = module._NoTrainLpips(net="vgg")
    expected = reference(*(images.float() / 255 for images in pair), normalize=True).reshape(-1)
    torch.testing.assert_close(lpips(*pair), expected, rtol=1e-4, atol=1e-5)


def test_equal_pictures_are_at_no_distance(lpips, pair):
    assert lpips(pair[0], pair[0]).abs().max() == 0
    assert (lpips(*pair) > 0).all()
    torch.testing.assert_close(lpips(*pair), lpips(*pair.flip(0)))


def test_it_does_not_depend_on_the_batch(lpips, pair):
    alone = torch.cat([lpips(a[None], b[None]) for a, b in zip(*pair, strict=True)])
    torch.testing.assert_close(lpips(*pair), alone, rtol=1e-4, atol=1e-6)


def test_it_names_its_weights(lpips, weights):
    assert lpips.weights_sha256 == file_sha256(weights)


def test_what_is_refused(lpips, pair, tmp_path):
    with pytest.raises(SoftDecodeError, match="expected equal"):
        lpips(pair[0], pair[1][:2])
    with pytest.raises(SoftDecodeError, match="LPIPS needs 16 a side"):
        lpips(pair[0, ..., :8], pair[1, ..., :8])
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(SoftDecodeError, match="holds 1 convolutions, expected the 13 of VGG16"):
        Lpips(tmp_path / "part.pth")
    with pytest.raises(SoftDecodeError, match="cannot read the weights"):
        Lpips(tmp_path / "missing.pth")
