"""Rows of a results table: decoders measured one after the other against the same reference."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from softdecode.decoder import DistributionDecoder
from softdecode.evaluation.metrics import compare_sets, image_features, psnr, ssim
from softdecode.images import to_uint8
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer

Progress = Callable[[str, int, int], None]
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
        seconds: of decoding all pictures.
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
    seconds: float


@dataclass(kw_only=True)
class Measurement:
    """Collects rows of one table, all under the same protocol.

    Attributes:
        reference: [R, 3, H, W] uint8 pictures that the sets are compared with.
        extractor: their features' network.
        count: how many pictures each decoder makes.
        paired: whether picture i of a decoder is one of reference i (then PSNR and SSIM are taken).
        batch_size: pictures decoded at a time.
        on_progress: called with (row, done, total).
        rows: what was measured.
        images: each row's pictures [count, 3, H, W] uint8, by `name` or `name@steps`.
    """

    reference: Tensor
    extractor: nn.Module
    count: int
    paired: bool
    batch_size: int
    on_progress: Progress | None = None
    rows: list[Row] = field(default_factory=list)
    images: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._reference_features = image_features(self.reference, self.extractor)

    def add(
        self, name: str, condition: str, bits: float, decode: Callable[[slice], Tensor], steps: int | None = None
    ) -> None:
        """Decode all pictures, `decode(slice)` to [-1, 1] at a time, and measure them."""
        began = time.perf_counter()
        parts = []
        for start in range(0, self.count, self.batch_size):
            part = slice(start, min(start + self.batch_size, self.count))
            parts.append(to_uint8(decode(part)))
            if self.on_progress is not None:
                self.on_progress(name, part.stop, self.count)
        seconds = time.perf_counter() - began
        images = torch.cat(parts)
        distance = compare_sets(image_features(images, self.extractor), self._reference_features)
        self.images[name if steps is None else f"{name}@{steps}"] = images
        self.rows.append(
            Row(
                name=name,
                condition=condition,
                steps=steps,
                bits_per_pixel=bits,
                frechet=distance.frechet,
                kernel=distance.kernel,
                kernel_std=distance.kernel_std,
                psnr=psnr(images, self.reference) if self.paired else None,
                ssim=ssim(images, self.reference) if self.paired else None,
                seconds=seconds,
            )
        )

    def add_decoder(
        self,
        name: str,
        decoder: DistributionDecoder,
        belief: Callable[[slice], TokenDistribution],
        *,
        rates: "BitRates",
        steps: Sequence[int],
        seed: int,
    ) -> None:
        """Add a row of a soft decoder for each number of steps; picture i has the noise of seed `seed` + i.

        The row `vq` must be there already: its pictures are the drafts of decoders that see one.
        """
        condition, bits = rates.seen_by(decoder)
        drafts = self.images["vq"] if decoder.config.draft else None
        for count in steps:

            def decode(part: slice, count: int = count) -> Tensor:
                return decoder.denoise(
                    belief(part),
                    seeds=range(seed + part.start, seed + part.stop),
                    draft=None if drafts is None else drafts[part],
                    steps=count,
                )

            self.add(name, condition, bits, decode, steps=count)


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
