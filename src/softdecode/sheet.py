"""Contact sheets: labelled rows and columns of pictures."""

import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN, _HEAD, _LABEL = 8, 28, 190


def contact_sheet(
    columns: Sequence[str],
    labels: Sequence[str],
    rows: Sequence[Sequence[Image.Image]],
    *,
    cell: int = 128,
    rows_per_block: int = 6,
) -> Image.Image:
    """A white sheet with a heading for each column and a label for each row.

    Args:
        columns: headings of the picture columns.
        labels: one for each row, wrapped to fit.
        rows: pictures of each row, one for each column; shown `cell` pixels wide and high, small ones enlarged
            without smoothing.
        cell: side of a picture in pixels.
        rows_per_block: longer lists go on in a further block to the right, with headings of its own.
    """
    step = cell + _MARGIN
    block = _LABEL + len(columns) * step + _MARGIN
    blocks = max(1, math.ceil(len(rows) / rows_per_block))
    height = _HEAD + min(len(rows), rows_per_block) * step + _MARGIN
    sheet = Image.new("RGB", (blocks * block, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for number in range(blocks):
        for place, heading in enumerate(columns):
            centre = number * block + _LABEL + place * step + cell / 2
            draw.text((centre, _HEAD / 2), heading, fill="black", font=font, anchor="mm")
    for line, (label, pictures) in enumerate(zip(labels, rows, strict=True)):
        left, top = line // rows_per_block * block, _HEAD + line % rows_per_block * step
        wrapped = "\n".join(textwrap.wrap(label, 22))
        draw.multiline_text((left + _MARGIN, top + cell / 2), wrapped, fill="black", font=font, anchor="lm")
        for place, picture in enumerate(pictures):
            resampling = Image.Resampling.NEAREST if picture.width <= cell else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((cell, cell), resampling), (left + _LABEL + place * step, top))
    return sheet
