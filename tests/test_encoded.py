"""What stands for the VLM's logits when a picture was encoded."""

import pytest
import torch

from softdecode.calibration import Calibration, proxy_distribution
from softdecode.encoded import encoded_distribution
from softdecode.errors import SoftDecodeError
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import nearest_tokens


class Decoder:
    """As much of a decoder as decides."""

    def __init__(self, source, calibration):
        self.config = type("Config", (), {"source": source})()
        self.calibration = calibration


class Vlm:
    def teacher_force(self, prompts, tokens, *, sampling=None, calibration=None):
        self.asked = prompts, tokens, calibration
        return TokenDistribution(
            tokens=tokens, codes=torch.zeros(*tokens.shape, 4), uncertainty=torch.zeros(*tokens.shape, 4)
        )


@pytest.fixture
def tokenizer(make_codebook):
    return type("Tokenizer", (), {"codebook": make_codebook(12, 4)})()


@pytest.fixture
def calibration():
    return Calibration(kappa=7.0, epsilon=0.02)


@pytest.fixture
def features():
    return torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(0))


def test_a_proxy_decoder_gets_the_calibrated_proxy(tokenizer, features, calibration):
    found = encoded_distribution(features, tokenizer, Decoder("proxy", calibration), vlm=Vlm(), prompts=["a", "b"])
    expected = proxy_distribution(features, tokenizer.codebook, calibration)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.tokens, nearest_tokens(features, tokenizer.codebook))


@pytest.mark.parametrize("prompts", [["a", "b"], None])
def test_a_teacher_forced_decoder_gets_the_vlms_belief_about_the_nearest_tokens(
    tokenizer, features, calibration, prompts
):
    vlm = Vlm()
    encoded_distribution(features, tokenizer, Decoder("teacher-forced", calibration), vlm=vlm, prompts=prompts)
    asked, tokens, given = vlm.asked
    assert asked == prompts
    assert torch.equal(tokens, nearest_tokens(features, tokenizer.codebook))
    assert given is calibration


def test_a_picture_without_a_caption_gets_the_unconditional_belief(tokenizer, features, calibration):
    vlm = Vlm()
    encoded_distribution(features, tokenizer, Decoder("teacher-forced", calibration), vlm=vlm, prompts=[None, "b"])
    asked, tokens, _ = vlm.asked  # the last pass
    assert asked is None
    assert torch.equal(tokens, nearest_tokens(features[:1], tokenizer.codebook))


def test_a_teacher_forced_decoder_needs_a_vlm(tokenizer, features, calibration):
    with pytest.raises(SoftDecodeError, match="its tokenizer alone"):
        encoded_distribution(features, tokenizer, Decoder("teacher-forced", calibration))
