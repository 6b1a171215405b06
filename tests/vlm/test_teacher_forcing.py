"""Beliefs about pictures of which some have no caption."""

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.mapping import TokenDistribution
from softdecode.vlm.teacher_forcing import belief_about


class Vlm:
    """Its belief is the caption's length, 0 for the unconditional one, and the picture's first token."""

    def __init__(self):
        self.passes = []

    def teacher_force(self, prompts, tokens, *, sampling=None, calibration=None):
        self.passes.append((prompts, sampling, calibration))
        lengths = torch.tensor([0.0] * len(tokens) if prompts is None else [float(len(said)) for said in prompts])
        marks = torch.stack([lengths, tokens[:, 0, 0].float()], -1)[:, None, None].expand(*tokens.shape, 2)
        return TokenDistribution(tokens=tokens, codes=marks, uncertainty=marks.repeat(1, 1, 1, 2))


@pytest.fixture
def tokens():
    return torch.arange(5)[:, None, None].expand(5, 2, 3)


@pytest.mark.parametrize(
    ("captions", "lengths", "passes"),
    [
        (["a", None, "ccc", None, "ee"], [1, 0, 3, 0, 2], [["a", "ccc", "ee"], None]),
        (["a", "", "ccc", "d", "ee"], [1, 0, 3, 1, 2], [["a", "", "ccc", "d", "ee"]]),
        ([None] * 5, [0] * 5, [None]),
        (None, [0] * 5, [None]),
    ],
)
def test_each_picture_gets_the_belief_of_its_own_caption(tokens, captions, lengths, passes):
    vlm = Vlm()
    found = belief_about(vlm, tokens, captions, sampling="sampling", calibration="calibration")
    assert found.codes[:, 0, 0, 0].tolist() == lengths
    assert found.codes[:, 1, 2, 1].tolist() == [0, 1, 2, 3, 4]
    assert found.uncertainty[:, 0, 0, 2].tolist() == lengths
    assert torch.equal(found.tokens, tokens)
    assert vlm.passes == [(prompts, "sampling", "calibration") for prompts in passes]


def test_another_number_of_captions_is_refused(tokens):
    with pytest.raises(SoftDecodeError, match="5 images need as many captions, or none at all, got 4"):
        belief_about(Vlm(), tokens, ["a"] * 4)
