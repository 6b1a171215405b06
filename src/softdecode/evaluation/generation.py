"""Generation protocol: prompts through the VLM, its tokens decoded by the VQ decoder and softly."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from softdecode.calibration import Calibration
from softdecode.decoder import DistributionDecoder
from softdecode.evaluation.rows import BitRates, Measurement, Progress
from softdecode.mapping import TokenDistribution, concatenate
from softdecode.vlm.base import ImageTokenModel, SamplingConfig


@torch.no_grad()
def evaluate_generation(
    prompts: Sequence[str],
    references: Tensor,
    vlm: ImageTokenModel,
    decoders: Mapping[str, DistributionDecoder],
    extractor: nn.Module,
    *,
    sampling: SamplingConfig,
    steps: Sequence[int],
    seed: int = 0,
    batch_size: int = 50,
    on_progress: Progress | None = None,
) -> tuple[Measurement, float]:
    """Draw every prompt once, decode the same tokens in every way, and measure against real pictures.

    Args:
        prompts: M prompts.
        references: real pictures [R, 3, H, W] uint8.
        vlm, sampling: what draws, and how; the image of prompt i has seed `seed` + i.
        decoders: by name.
        extractor: image features, see `evaluation.extractor`.
        steps: numbers of denoising steps, each a row of every decoder.
        batch_size: images at a time; changes nothing.
        on_progress: called with (row or "vlm", done, total).

    Returns:
        The measured rows and pictures (VQ decoder, VQ decoder on expected codes, then each decoder), and the seconds
        that the VLM took to draw the prompts once.
    """
    # The VLM's belief depends on a decoder's label smoothing, its tokens do not: draw once for each smoothing.
    beliefs: dict[float, TokenDistribution] = {}
    seconds = 0.0
    for decoder in decoders.values():
        epsilon = decoder.calibration.epsilon
        if epsilon not in beliefs:
            began = time.perf_counter()
            beliefs[epsilon] = _draw(prompts, vlm, sampling, decoder.calibration, seed, batch_size, on_progress)
            seconds = time.perf_counter() - began
    measurement = Measurement(
        reference=references,
        extractor=extractor,
        count=len(prompts),
        paired=False,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    tokenizer = vlm.tokenizer
    rates = BitRates.of(tokenizer)
    drawn = next(iter(beliefs.values()))
    measurement.add("vq", "tokens", rates.tokens, lambda part: tokenizer.decode(drawn.tokens[part]))
    measurement.add("vq-soft", "expected codes", rates.codes, lambda part: tokenizer.decode_codes(drawn.codes[part]))
    for name, decoder in decoders.items():
        belief = beliefs[decoder.calibration.epsilon].__getitem__
        measurement.add_decoder(name, decoder, belief, rates=rates, steps=steps, seed=seed)
    return measurement, seconds


def _draw(
    prompts: Sequence[str],
    vlm: ImageTokenModel,
    sampling: SamplingConfig,
    calibration: Calibration,
    seed: int,
    batch_size: int,
    on_progress: Progress | None,
) -> TokenDistribution:
    parts = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        seeds = range(seed + start, seed + start + len(batch))
        parts.append(vlm.sample(batch, seeds=seeds, sampling=sampling, calibration=calibration))
        if on_progress is not None:
            on_progress("vlm", start + len(batch), len(prompts))
    return concatenate(parts)
