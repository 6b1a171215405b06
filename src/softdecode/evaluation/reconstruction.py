"""Reconstruction protocol: pictures through the encoder and back, by every decoder there is.

Soft conditions come from features before quantisation, so they carry more than the tokens' bits: every row says what
it decodes and how many bits that is (spec section 4).
"""

from collections.abc import Mapping, Sequence

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from softdecode.calibration import Calibration, proxy_distribution
from softdecode.decoder import DistributionDecoder
from softdecode.encoded import encoded_distribution
from softdecode.evaluation.contenders import Contender, DecodableBatch, decoder_contenders, vq_contenders
from softdecode.evaluation.measurement import Measurement, Task, measure
from softdecode.evaluation.measuring import Measuring
from softdecode.evaluation.pictures import Captions, Pictures
from softdecode.evaluation.rows import BitRates
from softdecode.images import to_uint8, to_unit_range
from softdecode.latents import decode_latents, encode_images
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel, nearest_tokens


class EncodedBatch(DecodableBatch):
    """Originals and what the tokenizer makes of them, each computed once for all contenders.

    Args:
        part: the originals' places.
        originals: [b, 3, H, W] uint8.
        tokenizer: of the VLM.
        vlm, captions: for decoders that were trained on the VLM's own beliefs; captions of all originals, of which
            those that are None, or all where it is None, stand for the unconditional belief.
    """

    def __init__(
        self,
        part: slice,
        originals: Tensor,
        tokenizer: ImageTokenizer,
        vlm: ImageTokenModel | None = None,
        captions: Captions | None = None,
    ) -> None:
        super().__init__(part, tokenizer)
        self.vlm = vlm
        self.captions = None if captions is None else captions[part]
        self.images = to_unit_range(originals)
        self.features = tokenizer.features(self.images)
        self._tokens = nearest_tokens(self.features, tokenizer.codebook)

    @property
    def tokens(self) -> Tensor:
        return self._tokens

    def proxy(self, calibration: Calibration) -> TokenDistribution:
        """The encoder's belief under a calibration."""
        return proxy_distribution(self.features, self.tokenizer.codebook, calibration)

    def belief(self, decoder: DistributionDecoder) -> TokenDistribution:
        return encoded_distribution(self.features, self.tokenizer, decoder, vlm=self.vlm, prompts=self.captions)


@torch.no_grad()
def evaluate_reconstruction(
    originals: Pictures,
    tokenizer: ImageTokenizer,
    decoders: Mapping[str, DistributionDecoder],
    measuring: Measuring,
    *,
    calibration: Calibration,
    steps: Sequence[int],
    seed: int = 0,
    vlm: ImageTokenModel | None = None,
    captions: Captions | None = None,
    tuned: ImageTokenizer | None = None,
) -> Measurement:
    """Decode the originals in every way and measure.

    Args:
        originals: M pictures of the tokenizer's size.
        tokenizer: of the VLM.
        decoders: by name, all on one VAE; each conditions by its own mode and calibration.
        measuring: extractor, batch size, processes; see `Measuring`.
        calibration: for the row `vq-soft`.
        steps: numbers of denoising steps, each a row of every decoder; each decoder's own where there are none.
        seed: of the first image's noise, the others count on.
        vlm, captions: for decoders that were trained on the VLM's own beliefs.
        tuned: the tokenizer with its VQ decoder trained further, a baseline; none where None.

    Returns:
        The measured rows: VAE round trip (the ceiling), VQ decoder, tuned VQ decoder, VQ decoder on expected codes,
        then each decoder.
    """
    rates = BitRates.of(tokenizer)
    vae = next(iter(decoders.values())).base.vae
    first = originals[0:1]
    latent_bits = 32 * encode_images(vae, to_unit_range(first)).numel() / first[0, 0].numel()
    baselines = _baselines(vae, latent_bits, rates, calibration, tuned)
    return measure(
        Task(
            contenders=[*baselines, *decoder_contenders(decoders, rates=rates, steps=steps, seed=seed)],
            prepare=lambda part, images: EncodedBatch(part, _given(images), tokenizer, vlm, captions),
            count=len(originals),
            references=originals,
            paired=True,
        ),
        measuring,
    )


def _baselines(
    vae: AutoencoderKL,
    latent_bits: float,
    rates: BitRates,
    calibration: Calibration,
    tuned: ImageTokenizer | None,
) -> list[Contender[EncodedBatch]]:
    def round_trip(batch: EncodedBatch) -> Tensor:
        return to_uint8(decode_latents(vae, encode_images(vae, batch.images)))

    def vq_soft(batch: EncodedBatch) -> Tensor:
        return to_uint8(batch.tokenizer.decode_codes(batch.proxy(calibration).codes))

    return [
        Contender(name="vae-ceiling", condition="latents", bits=latent_bits, decode=round_trip),
        *vq_contenders(rates, tuned),
        Contender(name="vq-soft", condition="expected codes", bits=rates.codes, decode=vq_soft),
    ]


def _given(images: Tensor | None) -> Tensor:
    assert images is not None, "paired tasks are given their originals"
    return images
