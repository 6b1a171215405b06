"""The distribution of a picture that was encoded, not drawn: what a decoder met in training in place of the VLM's."""

from collections.abc import Sequence

from torch import Tensor

from softdecode.calibration import proxy_distribution
from softdecode.decoder import DistributionDecoder
from softdecode.errors import SoftDecodeError
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel, nearest_tokens
from softdecode.vlm.teacher_forcing import belief_about


def encoded_distribution(
    features: Tensor,
    tokenizer: ImageTokenizer,
    decoder: DistributionDecoder,
    *,
    vlm: ImageTokenModel | None = None,
    prompts: Sequence[str | None] | None = None,
) -> TokenDistribution:
    """The calibrated proxy, or the VLM's own belief for decoders that were trained with teacher forcing.

    Args:
        features: [B, h, w, d] of the pictures, before quantisation.
        tokenizer: of the VLM.
        decoder: whose source and calibration decide.
        vlm: for the VLM's belief.
        prompts: B captions, for the VLM's belief, which is the unconditional one where they, or one of them, are None.

    Raises:
        SoftDecodeError: the decoder needs a VLM, and there is none.
    """
    codebook = tokenizer.codebook
    if decoder.config.source == "proxy":
        return proxy_distribution(features, codebook, decoder.calibration)
    if vlm is None:
        raise SoftDecodeError("this decoder was trained on the VLM's own beliefs, and its tokenizer alone is given")
    return belief_about(vlm, nearest_tokens(features, codebook), prompts, calibration=decoder.calibration)
