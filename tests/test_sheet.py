"""Contact sheets: every picture in its place."""

import numpy as np
import pytest
from PIL import Image

from softdecode.sheet import contact_sheet


def picture(size, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 200, (*size, 3), dtype=np.uint8))


def cells(sheet, columns, rows, cell):
    pixels = np.asarray(sheet)
    return [
        [
            pixels[28 + row * (cell + 8) : 28 + row * (cell + 8) + cell, 190 + column * (cell + 8) :][:, :cell]
            for column in range(columns)
        ]
        for row in range(rows)
    ]


def test_small_pictures_are_enlarged_without_smoothing():
    rows = [[picture((16, 16), 10 * row + column) for column in range(3)] for row in range(2)]
    sheet = contact_sheet(["a", "b", "c"], ["first", "second"], rows, cell=32)
    assert sheet.mode == "RGB"
    for found, expected in zip(cells(sheet, 3, 2, 32), rows, strict=True):
        for part, image in zip(found, expected, strict=True):
            assert np.array_equal(part, np.asarray(image).repeat(2, 0).repeat(2, 1))


def test_large_pictures_are_shrunk_smoothly():
    image = picture((64, 64), 0)
    ((found,),) = cells(contact_sheet(["a"], ["first"], [[image]], cell=32), 1, 1, 32)
    assert np.array_equal(found, np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS)))


def test_headings_and_labels_are_written_and_the_rest_is_white():
    white = Image.new("RGB", (32, 32), "white")
    sheet = contact_sheet(["heading"], ["label"], [[white]], cell=32)
    empty = contact_sheet([""], [""], [[white]], cell=32)
    ink = np.asarray(sheet) < 255
    assert not (np.asarray(empty) < 255).any()
    assert ink[:28, 190:222].any(), "the heading is above its column"
    assert ink[28:60, :190].any(), "the label is left of its row"
    assert not ink[28:, 190:].any()


def test_long_labels_are_wrapped_beside_their_row():
    white = Image.new("RGB", (64, 64), "white")
    label = "a very long prompt that goes on and on, about nothing in particular"
    ink = np.asarray(contact_sheet(["a"], [label], [[white]], cell=64)) < 255
    assert not ink[28:, 190:].any(), "it does not run into the pictures"
    lines = ink[28:, :190].any((1, 2))
    assert np.count_nonzero(np.diff(lines.astype(int)) == 1) >= 3, "several lines"


def test_every_row_needs_a_label():
    with pytest.raises(ValueError, match="zip"):
        contact_sheet(["a"], ["one"], [[picture((4, 4), 0)], [picture((4, 4), 1)]])


def test_long_lists_go_on_in_a_block_to_the_right():
    rows = [[picture((16, 16), 10 * row + column) for column in range(2)] for row in range(5)]
    sheet = contact_sheet(["a", "b"], list("12345"), rows, cell=16, rows_per_block=2)
    block = 190 + 2 * (16 + 8) + 8
    assert sheet.size == (3 * block, 28 + 2 * (16 + 8) + 8)
    for row, pictures in enumerate(rows):
        left = row // 2 * block
        part = sheet.crop((left, 0, left + block, sheet.height))
        for found, expected in zip(cells(part, 2, 2, 16)[row % 2], pictures, strict=True):
            assert np.array_equal(found, np.asarray(expected))
        ink = np.asarray(part) < 255
        assert ink[:28, 190:].any(), "each block has its headings"
    last = np.asarray(sheet.crop((2 * block, 28 + 24, 3 * block, sheet.height)))
    assert (last == 255).all(), "nothing after the last row"
