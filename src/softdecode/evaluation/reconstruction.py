"""Reconstruction protocol: pictures through the encoder and back, by every decoder there is.

Soft conditions come from features before quantisation, so they carry more than the tokens' bits: every row says what
it decodes and how many bits that is (spec section 4).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from softdecode.calibration import Calibration, proxy_distribution
from softdecode.decoder import DistributionDecoder
from softdecode.evaluation.rows import BitRates, Measurement, Progress
from softdecode.images import to_unit_range
from softdecode.latents import decode_latents, encode_images
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer, nearest_tokens


@torch.no_grad()
def evaluate_reconstruction(
    originals: Tensor,
    tokenizer: ImageTokenizer,
    decoders: Mapping[str, DistributionDecoder],
    extractor: nn.Module,
    *,
    calibration: Calibration,
    steps: Sequence[int],
    seed: int = 0,
    batch_size: int = 64,
    on_progress: Progress | None = None,
) -> Measurement:
    """Decode the originals in every way and measure.

    Args:
        originals: [M, 3, H, W] uint8.
        tokenizer: of the VLM.
        decoders: by name, all on one VAE; each conditions by its own mode and calibration.
        extractor: image features, see `evaluation.extractor`.
        calibration: for the row `vq-soft`.
        steps: numbers of denoising steps, each a row of every decoder.
        seed: of the first image's noise, the others count on.
        batch_size: images decoded at a time; changes nothing.
        on_progress: called with (row, done, total).

    Returns:
        The measured rows and pictures: VAE round trip (the ceiling), VQ decoder, VQ decoder on expected codes,
        then each decoder.
    """
    measurement = Measurement(
        reference=originals,
        extractor=extractor,
        count=len(originals),
        paired=True,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    features = torch.cat([tokenizer.features(to_unit_range(part)) for part in originals.split(batch_size)])
    codebook = tokenizer.codebook
    tokens = nearest_tokens(features, codebook)
    rates = BitRates.of(tokenizer)
    vae = next(iter(decoders.values())).base.vae

    def latents(part: slice) -> Tensor:
        return encode_images(vae, to_unit_range(originals[part]))

    latent_bits = 32 * latents(slice(0, 1)).numel() / originals[0, 0].numel()
    measurement.add("vae-ceiling", "latents", latent_bits, lambda part: decode_latents(vae, latents(part)))
    measurement.add("vq", "tokens", rates.tokens, lambda part: tokenizer.decode(tokens[part]))
    measurement.add(
        "vq-soft",
        "expected codes",
        rates.codes,
        lambda part: tokenizer.decode_codes(proxy_distribution(features[part], codebook, calibration).codes),
    )
    for name, decoder in decoders.items():

        def belief(part: slice, calibration: Calibration = decoder.calibration) -> TokenDistribution:
            return proxy_distribution(features[part], codebook, calibration)

        measurement.add_decoder(name, decoder, belief, rates=rates, steps=steps, seed=seed)
    return measurement
