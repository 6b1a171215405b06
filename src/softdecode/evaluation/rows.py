"""Rows of a results table, and the bits that each decoder is given."""

import math
from dataclasses import dataclass

from softdecode.decoder import DistributionDecoder
from softdecode.vlm.base import ImageTokenizer

SOFT_BITS = 16  # bits that a stored number of a soft condition counts for


@dataclass(frozen=True, kw_only=True)
class Row:
    """One decoder's result under a protocol.

    Attributes:
        name: of the decoder or baseline.
        condition: what it decodes: latents, tokens (hard), or (soft) expected codes or the token distribution.
        steps: denoising steps; None for decoders that have none.
        bits_per_pixel: of what it decodes; for soft conditions an upper bound, at 16 bits a number.
        frechet, kernel, kernel_std: to the reference pictures, see the protocol for the extractor.
        psnr, ssim: to the originals, means over pictures; None where there are none (generation).
        lpips: likewise; None also where it was not asked for.
        seconds: of decoding all pictures, added up over processes.
    """

    name: str
    condition: str
    steps: int | None
    bits_per_pixel: float
    frechet: float
    kernel: float
    kernel_std: float
    psnr: float | None
    ssim: float | None
    lpips: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BitRates:
    """Bits per pixel of what a decoder is given."""

    tokens: float
    codes: float
    distribution: float

    @staticmethod
    def of(tokenizer: ImageTokenizer) -> "BitRates":
        """The rates of a tokenizer's grid: log2 V a token, d numbers a code, d + 4 a distribution."""
        cells = tokenizer.grid[0] * tokenizer.grid[1] / (tokenizer.image_size[0] * tokenizer.image_size[1])
        size, dim = tokenizer.codebook.shape
        return BitRates(
            tokens=cells * math.log2(size), codes=cells * dim * SOFT_BITS, distribution=cells * (dim + 4) * SOFT_BITS
        )

    def seen_by(self, decoder: DistributionDecoder) -> tuple[str, float]:
        """What a decoder is given, and its bits per pixel; a draft holds what the tokens hold."""
        if decoder.config.mode == "hard":
            return "tokens", self.tokens
        if decoder.config.mode == "soft" and not decoder.config.draft:
            return "distribution", self.distribution
        return "tokens + distribution", self.tokens + self.distribution
