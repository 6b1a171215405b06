"""Contact sheets: labelled rows and columns of pictures."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN, _HEAD, _LABEL = 8, 28, 190


def contact_sheet(
    columns: Sequence[str], labels: Sequence[str], rows: Sequence[Sequence[Image.Image]], *, cell: int = 128
) -> Image.Image:
    """A white sheet with a heading for each column and a label for each row.

    Args:
        columns: headings of the picture columns.
        labels: one for each row, wrapped to fit.
        rows: pictures of each row, one for each column; shown `cell` pixels wide and high, small ones enlarged
            without smoothing.
    """
    step = cell + _MARGIN
    sheet = Image.new("RGB", (_LABEL + len(columns) * step + _MARGIN, _HEAD + len(rows) * step + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for place, heading in enumerate(columns):
        draw.text((_LABEL + place * step + cell / 2, _HEAD / 2), heading, fill="black", font=font, anchor="mm")
    for line, (label, pictures) in enumerate(zip(labels, rows, strict=True)):
        top = _HEAD + line * step
        wrapped = "\n".join(textwrap.wrap(label, 22))
        draw.multiline_text((_MARGIN, top + cell / 2), wrapped, fill="black", font=font, anchor="lm")
        for place, picture in enumerate(pictures):
            resampling = Image.Resampling.NEAREST if picture.width <= cell else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((cell, cell), resampling), (_LABEL + place * step, top))
    return sheet
