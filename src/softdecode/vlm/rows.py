"""Rows of text ids through a language model of transformers, and image tokens after them, with a key-value cache."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import StaticCache

from softdecode.calibration import Calibration
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer, SamplingConfig
from softdecode.vlm.sampling import sample_tokens
from softdecode.vlm.teacher_forcing import map_forced


def padded_rows(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask [rows, longest] int64, filled on the left with what is never attended to."""
    longest = max(map(len, rows))
    ids = [[fill] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class CachedRows:
    """A language model over rows of prompts of different lengths, extended together.

    Positions count real ids only, so that a row's numbers do not depend on its neighbours' lengths.

    Args:
        language: transformers' model without its head: embeddings in, hidden states out.
        config: its config.
        rows: text ids of each row.
        fill: an id to fill short rows with.
        extra: how many positions come after the prompts at most.
    """

    def __init__(self, language: Any, config: Any, rows: Sequence[Sequence[int]], *, fill: int, extra: int) -> None:
        self._language = language
        embeddings = language.get_input_embeddings()
        self._ids, self._mask = padded_rows(rows, fill, embeddings.weight.device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp_min(0)
        self._cache = StaticCache(config=config, max_cache_len=self._ids.shape[1] + extra)

    def prompt(self) -> Tensor:
        """Read the prompts: hidden states [rows, D] after their last ids."""
        return self._run(self._language.get_input_embeddings()(self._ids), self._positions)

    def extend(self, embeddings: Tensor) -> Tensor:
        """Read T more embeddings [rows, T, D]: hidden states [rows, D] after the last."""
        count = embeddings.shape[1]
        self._mask = F.pad(self._mask, (0, count), value=1)
        steps = torch.arange(1, count + 1, device=self._mask.device)
        self._positions = self._positions[:, -1:] + steps
        return self._run(embeddings, self._positions)

    def _run(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        output = self._language(
            inputs_embeds=embeddings,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]


def parallel_hidden(language: Any, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    """Hidden states [rows, 1 + T, D] from each prompt's last id on, in one pass without a cache.

    Args:
        language: see `CachedRows`.
        ids, mask: [rows, L] prompts, filled on the left.
        image: [rows, T, D] embeddings to read after them.
    """
    mask = F.pad(mask, (0, image.shape[1]), value=1)
    text = language.get_input_embeddings()(ids)
    output = language(
        inputs_embeds=torch.cat([text, image.to(text.dtype)], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
        use_cache=False,
    )
    return output.last_hidden_state[:, ids.shape[1] - 1 :]


@dataclass(frozen=True, kw_only=True)
class RowModel:
    """A language model of transformers that draws an image after each row of text ids.

    Attributes:
        language, config: see `CachedRows`.
        embed: (image tokens [rows], how many were drawn so far) to the embeddings [rows, T, D] to read next.
        head: hidden states [..., D] to logits over the codebook [..., V].
        tokenizer: the VQ side.
        fill: an id to fill short prompts with.
        line_ends: whether `embed` adds a position after each row of the image.
    """

    language: Any
    config: Any
    embed: Callable[[Tensor, int], Tensor]
    head: Callable[[Tensor], Tensor]
    tokenizer: ImageTokenizer
    fill: int
    line_ends: bool = False

    def sample(
        self,
        conditional: Sequence[Sequence[int]],
        unconditional: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        sampling: SamplingConfig,
        calibration: Calibration | None = None,
        on_token: Callable[[int, int], None] | None = None,
        on_logits: Callable[[Tensor], None] | None = None,
    ) -> TokenDistribution:
        """Draw one image after each prompt.

        Args:
            conditional, unconditional: text ids of B prompts each; the latter are in no use without guidance.
            seeds, sampling, calibration, on_token, on_logits: see `ImageTokenModel.sample`.
        """
        guided = sampling.guidance_scale != 1
        batch = len(conditional)
        height, width = self.tokenizer.grid
        prompts = [*conditional, *unconditional] if guided else conditional
        extra = height * (width + self.line_ends)
        rows = CachedRows(self.language, self.config, prompts, fill=self.fill, extra=extra)
        drawn = 0

        def next_logits(tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
            nonlocal drawn
            if tokens is None:
                hidden = rows.prompt()
            else:
                drawn += 1
                hidden = rows.extend(self.embed(torch.cat([tokens, tokens]) if guided else tokens, drawn))
            logits = self.head(hidden)
            return (logits[:batch], logits[batch:]) if guided else (logits, None)

        return sample_tokens(
            next_logits,
            codebook=self.tokenizer.codebook,
            grid=self.tokenizer.grid,
            seeds=seeds,
            sampling=sampling,
            calibration=calibration,
            on_token=on_token,
            on_logits=on_logits,
        )

    def teacher_force(
        self,
        conditional: Sequence[Sequence[int]],
        unconditional: Sequence[Sequence[int]],
        tokens: Tensor,
        *,
        sampling: SamplingConfig,
        calibration: Calibration | None = None,
    ) -> TokenDistribution:
        """The belief about given images [B, h, w] int64 after the prompts, in one parallel pass; see `sample`."""
        guided = sampling.guidance_scale != 1
        batch = len(conditional)
        prompts = [*conditional, *unconditional] if guided else conditional
        ids, mask = padded_rows(prompts, self.fill, self.language.get_input_embeddings().weight.device)
        tokens = tokens.to(ids.device)
        read = tokens.flatten(1)[:, :-1].unbind(1)
        pieces = [self.embed(column, drawn) for drawn, column in enumerate(read, 1)]
        ends = [0, *itertools.accumulate(piece.shape[1] for piece in pieces)]  # where each token is predicted
        image = torch.cat(pieces, dim=1)
        hidden = parallel_hidden(self.language, ids, mask, torch.cat([image, image]) if guided else image)[:, ends]

        def logits_at(places: slice) -> tuple[Tensor, Tensor | None]:
            logits = self.head(hidden[:, places])
            return (logits[:batch], logits[batch:]) if guided else (logits, None)

        return map_forced(
            logits_at, tokens, codebook=self.tokenizer.codebook, sampling=sampling, calibration=calibration
        )
