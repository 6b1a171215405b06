"""Previews of training runs: pictures of the data beside what the models make of them."""

from collections.abc import Mapping

from PIL import Image
from torch import Tensor

from softdecode.images import to_pil, to_uint8
from softdecode.sheet import contact_sheet

PREVIEWED = 6
"""Pictures in a preview."""


def preview_sheet(columns: Mapping[str, Tensor]) -> Image.Image:
    """Pictures [B, 3, H, W] in [-1, 1] under their headings, one row a picture."""
    pictures = [to_pil(to_uint8(values)) for values in columns.values()]
    rows = list(zip(*pictures, strict=True))
    return contact_sheet(list(columns), [str(number + 1) for number in range(len(rows))], rows)
