"""softdecode: high-fidelity image output for vision-language models, by soft decoding of their image-token logits."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softdecode.calibration import Calibration as Calibration
    from softdecode.calibration import fit_calibration as fit_calibration
    from softdecode.calibration import proxy_logits as proxy_logits
    from softdecode.decoder import DistributionDecoder as DistributionDecoder
    from softdecode.errors import SoftDecodeError as SoftDecodeError
    from softdecode.mapping import TokenDistribution as TokenDistribution
    from softdecode.mapping import map_logits as map_logits
    from softdecode.pipeline import SoftDecodePipeline as SoftDecodePipeline
    from softdecode.vlm.registry import load_vlm as load_vlm

__version__ = version("softdecode")

# Public names and where they live: imported when first used, so that `import softdecode` is quick.
_PUBLIC = {
    "Calibration": "softdecode.calibration",
    "DistributionDecoder": "softdecode.decoder",
    "SoftDecodeError": "softdecode.errors",
    "SoftDecodePipeline": "softdecode.pipeline",
    "TokenDistribution": "softdecode.mapping",
    "fit_calibration": "softdecode.calibration",
    "load_vlm": "softdecode.vlm.registry",
    "map_logits": "softdecode.mapping",
    "proxy_logits": "softdecode.calibration",
}
__all__ = [*_PUBLIC, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'softdecode' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
