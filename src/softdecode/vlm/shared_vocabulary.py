"""Drawing with models whose image tokens are part of the text vocabulary (Emu3, Chameleon)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softdecode.errors import SoftDecodeError
from softdecode.vlm.base import ImageTokenizer
from softdecode.vlm.rows import RowModel


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


def rows_in_vocabulary(
    model: Any, *, text_ids: Tensor, tokenizer: ImageTokenizer, line_end: int | None = None, **others: Any
) -> RowModel:
    """Rows of a model whose head is over all text ids; only the codes' own logits are kept.

    Args:
        model: transformers' model.
        text_ids: see `code_ids`.
        tokenizer: the VQ side.
        line_end: an id that is written, not drawn, after each row of the image; none where None.
        others: further attributes of `RowModel`.
    """
    width = tokenizer.grid[1]

    def embed(tokens: Tensor, drawn: int) -> Tensor:
        ids = text_ids[tokens][:, None]
        if line_end is not None and drawn % width == 0:
            ids = torch.cat([ids, torch.full_like(ids, line_end)], dim=1)
        return model.get_input_embeddings()(ids)

    def head(hidden: Tensor) -> Tensor:
        return model.lm_head(hidden)[..., text_ids]

    return RowModel(embed=embed, head=head, tokenizer=tokenizer, line_ends=line_end is not None, **others)
