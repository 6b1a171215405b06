"""Evenly spaced places: from the first to the last, each once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softdecode.data.spacing import evenly_spaced


@given(total=st.integers(2, 3000), wanted=st.integers(2, 600))
def test_places_are_whole_ascending_and_span_everything(total, wanted):
    places = evenly_spaced(total, wanted)
    assert len(places) == min(total, wanted)
    assert (places[0], places[-1]) == (0, total - 1)
    steps = torch.tensor(places).diff()
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize(("total", "wanted", "expected"), [(5, 9, [0, 1, 2, 3, 4]), (13, 3, [0, 6, 12]), (7, 1, [0])])
def test_places_of_few(total, wanted, expected):
    assert evenly_spaced(total, wanted) == expected


def test_the_last_of_more_than_float32_can_count():
    assert evenly_spaced(2**24 + 4, 5)[-1] == 2**24 + 3
