"""Generation protocol: prompts through the VLM, its tokens decoded by the VQ decoder and softly."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from softdecode.decoder import DistributionDecoder
from softdecode.evaluation.contenders import Contender, DecodableBatch, decoder_contenders, vq_contenders
from softdecode.evaluation.measurement import Measurement, Task, measure
from softdecode.evaluation.measuring import Measuring
from softdecode.evaluation.pictures import Pictures
from softdecode.evaluation.rows import BitRates
from softdecode.images import to_uint8
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel, SamplingConfig


class DrawnBatch(DecodableBatch):
    """What the VLM drew for some prompts.

    Args:
        part: the prompts' places.
        beliefs: by the label smoothing of the decoders that they are for; the tokens of all are the same.
        tokenizer: of the VLM.
    """

    def __init__(self, part: slice, beliefs: Mapping[float, TokenDistribution], tokenizer: ImageTokenizer) -> None:
        super().__init__(part, tokenizer)
        self._beliefs = beliefs

    @property
    def drawn(self) -> TokenDistribution:
        return next(iter(self._beliefs.values()))

    @property
    def tokens(self) -> Tensor:
        return self.drawn.tokens

    def belief(self, decoder: DistributionDecoder) -> TokenDistribution:
        return self._beliefs[decoder.calibration.epsilon]


class Drawer:
    """Draws batches of prompts, and keeps the time.

    Attributes:
        seconds: that the VLM took to draw every prompt once, on this process.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        vlm: ImageTokenModel,
        decoders: Mapping[str, DistributionDecoder],
        sampling: SamplingConfig,
        seed: int,
    ) -> None:
        self.seconds = 0.0
        self._prompts, self._vlm, self._sampling, self._seed = prompts, vlm, sampling, seed
        # The VLM's belief depends on a decoder's label smoothing, its tokens do not: draw once for each smoothing.
        self._calibrations = {decoder.calibration.epsilon: decoder.calibration for decoder in decoders.values()}

    def draw(self, part: slice, originals: Tensor | None = None) -> DrawnBatch:
        """The prompts of a slice; the image of prompt i has seed `seed` + i."""
        del originals
        seeds = range(self._seed + part.start, self._seed + part.stop)
        beliefs = {}
        for epsilon, calibration in self._calibrations.items():
            began = time.perf_counter()
            beliefs[epsilon] = self._vlm.sample(
                self._prompts[part], seeds=seeds, sampling=self._sampling, calibration=calibration
            )
            if len(beliefs) == 1:
                self.seconds += time.perf_counter() - began
        return DrawnBatch(part, beliefs, self._vlm.tokenizer)


@torch.no_grad()
def evaluate_generation(
    prompts: Sequence[str],
    references: Pictures,
    vlm: ImageTokenModel,
    decoders: Mapping[str, DistributionDecoder],
    measuring: Measuring,
    *,
    sampling: SamplingConfig,
    steps: Sequence[int],
    seed: int = 0,
    tuned: ImageTokenizer | None = None,
) -> tuple[Measurement, float]:
    """Draw every prompt once, decode the same tokens in every way, and measure against real pictures.

    Args:
        prompts: M prompts.
        references: real pictures.
        vlm, sampling: what draws, and how; the image of prompt i has seed `seed` + i.
        decoders: by name.
        measuring: extractor, batch size, processes; see `Measuring`.
        steps: numbers of denoising steps, each a row of every decoder; each decoder's own where there are none.
        tuned: the tokenizer with its VQ decoder trained further, a baseline; none where None.

    Returns:
        The measured rows (VQ decoder, tuned VQ decoder, VQ decoder on expected codes, then each decoder), and the
        seconds that the VLM took to draw the prompts once, added up over processes (on rank 0).
    """
    rates = BitRates.of(vlm.tokenizer)
    drawer = Drawer(prompts, vlm, decoders, sampling, seed)

    def vq_soft(batch: DrawnBatch) -> Tensor:
        return to_uint8(batch.tokenizer.decode_codes(batch.drawn.codes))

    baselines: list[Contender[DrawnBatch]] = [
        *vq_contenders(rates, tuned),
        Contender(name="vq-soft", condition="expected codes", bits=rates.codes, decode=vq_soft),
    ]
    measurement = measure(
        Task(
            contenders=[*baselines, *decoder_contenders(decoders, rates=rates, steps=steps, seed=seed)],
            prepare=drawer.draw,
            count=len(prompts),
            references=references,
            paired=False,
        ),
        measuring,
    )
    return measurement, sum(measuring.processes.gather(drawer.seconds))
