"""Drawing with models whose image tokens are part of the text vocabulary (Emu3, Chameleon)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer, SamplingConfig
from softdecode.vlm.rows import CachedRows
from softdecode.vlm.sampling import sample_tokens


def code_ids(known: Mapping[int, int], codes: int, owner: str) -> Tensor:
    """Text ids [V] int64 of the image codes, in the codebook's order.

    Args:
        known: code to text id, as transformers' vocabulary mappings hold it.
        codes: size of the codebook.
        owner: name of the model, for the message.

    Raises:
        SoftDecodeError: a code without a text id, or ids without a code.
    """
    if sorted(known) != list(range(codes)):
        raise SoftDecodeError(f"{owner} has {codes} codes, but its vocabulary_map names {len(known)} image tokens")
    return torch.tensor([known[code] for code in range(codes)])


def sample_in_vocabulary(
    model: Any,
    language: Any,
    config: Any,
    conditional: Sequence[Sequence[int]],
    unconditional: Sequence[Sequence[int]],
    *,
    tokenizer: ImageTokenizer,
    text_ids: Tensor,
    fill: int,
    line_end: int | None = None,
    seeds: Sequence[int],
    sampling: SamplingConfig,
    calibration: Calibration | None = None,
    on_token: Callable[[int, int], None] | None = None,
    on_logits: Callable[[Tensor], None] | None = None,
) -> TokenDistribution:
    """Draw one image after each prompt; only the codes' own logits are kept.

    Args:
        model: transformers' model, with a head over all text ids.
        language: the part of it that gives hidden states.
        config: the language part's config.
        conditional, unconditional: text ids of B prompts each; the latter are in no use without guidance.
        tokenizer: the VQ side.
        text_ids: see `code_ids`.
        fill: an id to fill short prompts with.
        line_end: an id that is written, not drawn, after each row of the image; none where None.
        seeds, sampling, calibration, on_token, on_logits: see `ImageTokenModel.sample`.
    """
    guided = sampling.guidance_scale != 1
    batch = len(conditional)
    height, width = tokenizer.grid
    prompts = [*conditional, *unconditional] if guided else conditional
    rows = CachedRows(language, config, prompts, fill=fill, extra=height * (width + 1))
    drawn = 0

    def next_logits(tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        nonlocal drawn
        if tokens is None:
            hidden = rows.prompt()
        else:
            drawn += 1
            ids = text_ids[torch.cat([tokens, tokens]) if guided else tokens][:, None]
            if line_end is not None and drawn % width == 0:
                ids = torch.cat([ids, torch.full_like(ids, line_end)], dim=1)
            hidden = rows.extend(model.get_input_embeddings()(ids))
        logits = model.lm_head(hidden)[:, text_ids]
        return (logits[:batch], logits[batch:]) if guided else (logits, None)

    return sample_tokens(
        next_logits,
        codebook=tokenizer.codebook,
        grid=tokenizer.grid,
        seeds=seeds,
        sampling=sampling,
        calibration=calibration,
        on_token=on_token,
        on_logits=on_logits,
    )
