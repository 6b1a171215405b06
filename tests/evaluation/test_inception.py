"""The network of published FIDs, with random weights; where torchvision is missing, stand-ins take its place."""

import importlib.util
import pickle
import sys
import warnings
from types import ModuleType

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.evaluation.extractors import extractor_info, load_extractor
from softdecode.files import file_sha256

pytest.importorskip("softdecode.evaluation.torchmetrics")

from softdecode.evaluation.inception import InceptionV3
from softdecode.evaluation.metrics import image_features


@pytest.fixture(scope="module")
def torch_fidelity():
    """torch-fidelity, which uses torchvision for other things than this network."""
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed")
    before = dict(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch-fidelity's own imports
        if importlib.util.find_spec("torchvision") is None:
            names = [
                "torchvision",
                "torchvision.datasets",
                "torchvision.transforms",
                "torchvision.transforms.functional",
            ]
            modules = {name: ModuleType(name) for name in names}
            for name in ("CIFAR10", "STL10", "CIFAR100"):
                setattr(modules["torchvision.datasets"], name, type(name, (), {}))
            modules["torchvision"].transforms = modules["torchvision.transforms"]
            modules["torchvision.transforms"].functional = modules["torchvision.transforms.functional"]
            sys.modules.update(modules)
        module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    # Other tests see no torchvision that is not there.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision" and name not in before]:
        del sys.modules[name]
    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_fidelity" and name not in before]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def network(torch_fidelity, tmp_path_factory):
    """torch-fidelity's own class with random weights, and the file of these."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        kept = []
        cls = torch_fidelity.FeatureExtractorInceptionV3
        patch.setattr(torch_fidelity, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(cls, "load_state_dict", lambda self, _state: kept.append(self.state_dict()))
        reference = cls("reference", ["2048"])
    torch.save(kept[0], path)
    return reference, path


@pytest.fixture(scope="module")
def extractor(network):
    return load_extractor("inception-v3", network[1])


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (3, 3, 40, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_features_are_those_of_torch_fidelity(extractor, network, images):
    (expected,) = network[0](images)
    found = extractor(images)
    assert found.shape == (3, 2048)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert found.std(dim=0).max() > 0


def test_features_do_not_depend_on_the_batch(extractor, images):
    together = image_features(images, extractor)
    torch.testing.assert_close(image_features(images, extractor, batch_size=1), together, rtol=1e-4, atol=1e-5)


def test_it_says_what_it_is(extractor, network):
    info = extractor_info(extractor)
    assert info.is_fid
    assert info.weights_sha256 == file_sha256(network[1])
    assert info.width == 2048
    assert not any(part.training for part in extractor.train().modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_other_inputs_are_refused(extractor):
    with pytest.raises(SoftDecodeError, match=r"expected torch.uint8 \[M, 3, H, W\]"):
        extractor(torch.rand(1, 3, 8, 8))


def test_weights_of_another_network_are_refused(torch_fidelity, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(SoftDecodeError, match="does not hold the weights of FID's Inception-v3"):
        InceptionV3(tmp_path / "other.pth")


class Harmful:
    """Would write a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_weights_file_does_not_run(torch_fidelity, tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / "harmful.pth").write_bytes(pickle.dumps(Harmful(trace), protocol=2))
    torch.save({"weight": Harmful(trace)}, tmp_path / "zipped.pth")
    for name in ("harmful.pth", "zipped.pth"):
        with pytest.raises(SoftDecodeError, match="holds more than tensors"):
            InceptionV3(tmp_path / name)
    assert not trace.exists()


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(SoftDecodeError, match=r"pip install softdecode\[fid\]"):
        InceptionV3()


def test_unknown_extractor():
    with pytest.raises(SoftDecodeError, match="expected efficientnet-lite0 or inception-v3"):
        load_extractor("vgg")
