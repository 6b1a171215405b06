"""What VLMs of transformers share that draw after rows of text ids: both passes of the contract."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from softdecode.calibration import Calibration
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer, SamplingConfig, check_prompts
from softdecode.vlm.rows import RowModel
from softdecode.vlm.teacher_forcing import settle_forcing


class RowVlm(nn.Module, ABC):
    """`sample` and `teacher_force` of `ImageTokenModel`, for families that say how their rows are made."""

    tokenizer: ImageTokenizer
    defaults: SamplingConfig

    @abstractmethod
    def row_model(self) -> RowModel:
        """How rows are read and image tokens drawn."""

    @abstractmethod
    def conditional_rows(self, prompts: Sequence[str]) -> list[list[int]]:
        """Text ids of prompts."""

    @abstractmethod
    def unconditional_rows(self, conditional: Sequence[Sequence[int]]) -> list[list[int]]:
        """Text ids of the authors' unconditional rows that belong to conditional ones."""

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingConfig | None = None,
        calibration: Calibration | None = None,
        on_token: Callable[[int, int], None] | None = None,
        on_logits: Callable[[Tensor], None] | None = None,
    ) -> TokenDistribution:
        check_prompts(prompts, seeds)
        rows = self.conditional_rows(prompts)
        return self.row_model().sample(
            rows,
            self.unconditional_rows(rows),
            seeds=seeds,
            sampling=sampling or self.defaults,
            calibration=calibration,
            on_token=on_token,
            on_logits=on_logits,
        )

    @torch.no_grad()
    def teacher_force(
        self,
        prompts: Sequence[str] | None,
        tokens: Tensor,
        *,
        sampling: SamplingConfig | None = None,
        calibration: Calibration | None = None,
    ) -> TokenDistribution:
        sampling = settle_forcing(prompts, tokens, self.tokenizer, sampling or self.defaults)
        rows = self.conditional_rows(prompts or [""] * len(tokens))
        empty = self.unconditional_rows(rows)
        if prompts is None:
            rows = empty
        return self.row_model().teacher_force(rows, empty, tokens, sampling=sampling, calibration=calibration)
