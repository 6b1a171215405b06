"""LlamaGen's captions: cleaned, encoded by flan-T5's encoder, and rolled to left padding."""

import os
from collections.abc import Sequence

import torch
from diffusers import PixArtAlphaPipeline
from diffusers.utils import is_bs4_available, is_ftfy_available
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5EncoderModel

from softdecode.errors import SoftDecodeError
from softdecode.loading import load_pretrained, quiet_libraries

CAPTION_TOKENS = 120


def clean_caption(text: str) -> str:
    """The cleaning that LlamaGen's captions had in training: lower case, no links, tags, handles or odd signs.

    It is DeepFloyd's, which diffusers carries for its PixArt pipelines, applied twice as there.

    Raises:
        SoftDecodeError: the packages that it needs are absent.
    """
    if not (is_bs4_available() and is_ftfy_available()):
        raise SoftDecodeError(
            "LlamaGen's captions are cleaned with ftfy and beautifulsoup4, which are not installed; "
            "install softdecode[llamagen]"
        )
    for _ in range(2):
        text = PixArtAlphaPipeline._clean_caption(PixArtAlphaPipeline, text)  # type: ignore[arg-type]
    return text


class CaptionEncoder(nn.Module):
    """flan-T5's encoder with its tokenizer.

    Args:
        encoder: the T5 encoder, in eval mode.
        text_tokenizer: its tokenizer.
        tokens: length that captions are padded or cut to.
    """

    def __init__(
        self, encoder: T5EncoderModel, text_tokenizer: PreTrainedTokenizerBase, *, tokens: int = CAPTION_TOKENS
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.text_tokenizer = text_tokenizer
        self.tokens = tokens

    @staticmethod
    def from_pretrained(
        location: str | os.PathLike[str], *, revision: str | None = None, dtype: torch.dtype = torch.float32
    ) -> "CaptionEncoder":
        """Load a T5 folder or hub id; only its encoder is kept."""
        with quiet_libraries():
            text_tokenizer = AutoTokenizer.from_pretrained(str(location), revision=revision)
        return CaptionEncoder(load_pretrained(T5EncoderModel, location, revision=revision, dtype=dtype), text_tokenizer)

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, tokens, C] of prompts, padded on the left with zeros, and their mask [B, tokens] int64.

        Captions are padded on the right and encoded; then each row is rolled, as the official sampling code does.
        """
        device = self.encoder.device
        batch = self.text_tokenizer(
            [clean_caption(prompt) for prompt in prompts],
            max_length=self.tokens,
            padding="max_length",
            truncation=True,
            padding_side="right",
            return_tensors="pt",
        )
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        embeddings = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return left_padded(embeddings, mask)


def left_padded(embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Right-padded embeddings [B, T, C] and their mask [B, T], with the padding moved to the left and zeroed."""
    rolled = torch.stack([row.roll(len(row) - int(kept.sum()), 0) for row, kept in zip(embeddings, mask, strict=True)])
    flipped = mask.flip(-1)
    return rolled * flipped[..., None].to(rolled.dtype), flipped
