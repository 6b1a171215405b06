"""The networks whose features compare image sets, by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from softdecode.errors import SoftDecodeError

ExtractorName = Literal["efficientnet-lite0", "inception-v3"]


@dataclass(frozen=True, kw_only=True)
class ExtractorInfo:
    """What a result file says of the network behind a distance.

    Attributes:
        name: of network, training data and input size.
        weights_sha256: of the file that its weights came from.
        resizer: how pictures are prepared for it.
        width: number of features.
        is_fid: whether a Frechet distance of its features is what the literature calls FID.
    """

    name: str
    weights_sha256: str
    resizer: str
    width: int
    is_fid: bool


def load_extractor(name: ExtractorName = "efficientnet-lite0", weights: Path | None = None) -> nn.Module:
    """A frozen network, [B, 3, H, W] uint8 to features [B, D] float32.

    Args:
        name: `efficientnet-lite0` comes with softdecode[eval]; `inception-v3` needs softdecode[fid].
        weights: of `inception-v3`; torch-fidelity's published file is fetched where None.

    Raises:
        SoftDecodeError: an unknown name, a missing package, or weights that cannot be read.
    """
    # Imported here: each network has packages of its own.
    if name == "efficientnet-lite0":
        from softdecode.evaluation.extractor import EfficientNetLite0

        if weights is not None:
            raise SoftDecodeError("efficientnet-lite0 has its weights in its package; leave --extractor-weights out")
        return EfficientNetLite0()
    if name == "inception-v3":
        from softdecode.evaluation.inception import InceptionV3

        return InceptionV3(weights)
    raise SoftDecodeError(f"unknown extractor {name!r}; expected {' or '.join(get_args(ExtractorName))}")


def extractor_info(extractor: nn.Module) -> ExtractorInfo:
    """What an extractor of this library says of itself.

    Raises:
        SoftDecodeError: it is another module, whose numbers could not be told from others.
    """
    info = getattr(extractor, "info", None)
    if not isinstance(info, ExtractorInfo):
        raise SoftDecodeError(f"{type(extractor).__name__} has no ExtractorInfo as `info`; results must name it")
    return info
