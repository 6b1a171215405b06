"""Lifted codebooks: cosines rank as distances do, and nothing of a code is lost."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from softdecode.vlm.base import nearest_tokens
from softdecode.vlm.euclidean import LiftedCodebook


@st.composite
def tables(draw):
    seed, size, dim = draw(st.integers(0, 2**31)), draw(st.integers(1, 60)), draw(st.integers(1, 8))
    scale = draw(st.sampled_from([1e-4, 1.0, 300.0]))
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(size, 1, generator=generator) * 3
    table = scale * lengths * torch.randn(size, dim, generator=generator)
    return table, scale * 2 * torch.randn(20, dim, generator=generator)


@given(tables())
def test_the_greatest_cosine_is_the_nearest_code(case):
    table, features = case
    lifted = LiftedCodebook(table)
    found = nearest_tokens(lifted.lift(features)[None], lifted.vectors)[0]
    distances = torch.cdist(features.double(), table.double())
    least, reached = distances.amin(-1), distances.gather(1, found[:, None])[:, 0]
    torch.testing.assert_close(reached, least, rtol=1e-4, atol=1e-12)


@given(tables())
def test_rows_are_unit_vectors_and_come_back(case):
    table, _ = case
    lifted = LiftedCodebook(table)
    assert lifted.vectors.shape == (len(table), table.shape[1] + 2)
    torch.testing.assert_close(lifted.vectors.norm(dim=-1), torch.ones(len(table)))
    for scale in (1.0, 0.1, 7.0):
        torch.testing.assert_close(
            lifted.lower(scale * lifted.vectors), table, rtol=1e-3, atol=1e-4 * table.abs().max()
        )


def test_cosines_are_distances_up_to_each_features_own_scale():
    """cos = (|f|² - |f - e|²) / (2·R·|(f, 1)|) in units of the rows' root mean square length."""
    generator = torch.Generator().manual_seed(0)
    table, features = torch.randn(9, 3, generator=generator), torch.randn(5, 3, generator=generator)
    lifted = LiftedCodebook(table)
    unit = table.square().sum(-1).mean().sqrt()
    e, f = table / unit, features / unit
    radius = (e.square().sum(-1) + e.square().sum(-1).square() / 4).max().sqrt()
    expected = (f.square().sum(-1, keepdim=True) - torch.cdist(f, e).square()) / 2
    expected = expected / radius / (f.square().sum(-1, keepdim=True) + 1).sqrt()
    found = torch.nn.functional.normalize(lifted.lift(features), dim=-1) @ lifted.vectors.T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
