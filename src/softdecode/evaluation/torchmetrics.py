"""What is used of torchmetrics, importable also where torch-fidelity is installed but its torchvision does not work.

torchmetrics imports torch-fidelity wherever that is installed, for its own Inception network, which is not used here.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torch import nn

_PARTS = ("", ".feature_extractor_inceptionv3", ".helpers", ".interpolate_compat_tensorflow")


@contextmanager
def _without_broken_torch_fidelity() -> Iterator[None]:
    """While torchmetrics is imported, stand-ins in the place of a torch-fidelity that cannot be imported."""
    if importlib.util.find_spec("torch_fidelity") is None or _importable("torch_fidelity"):
        yield
        return
    names = [f"torch_fidelity{part}" for part in _PARTS]
    modules = [ModuleType(name) for name in names]
    modules[1].FeatureExtractorInceptionV3 = nn.Module  # type: ignore[attr-defined]
    modules[2].vassert = None  # type: ignore[attr-defined]
    modules[3].interpolate_bilinear_2d_like_tensorflow1x = None  # type: ignore[attr-defined]
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(zip(names, modules, strict=True))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError):  # a torchvision made for another torch raises RuntimeError
        return False
    return True


with _without_broken_torch_fidelity():
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

__all__ = [
    "FrechetInceptionDistance",
    "KernelInceptionDistance",
    "peak_signal_noise_ratio",
    "structural_similarity_index_measure",
]
