"""Janus and Janus-Pro: transformers' JanusForConditionalGeneration behind our own autoregressive loop.

The library's own `generate` keeps only the last step's scores, and its VQ encoder assigns codes without normalising;
both are avoided here (spec section 6).
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerBase

from softdecode.errors import SoftDecodeError
from softdecode.files import read_json
from softdecode.loading import config_file, load_pretrained, local_folder
from softdecode.vlm.base import SamplingConfig
from softdecode.vlm.janus_official import load_official_janus
from softdecode.vlm.janus_tokenizer import JanusTokenizer
from softdecode.vlm.row_vlm import RowVlm
from softdecode.vlm.rows import RowModel
from softdecode.vlm.text import load_text_tokenizer, refuse_control_tokens, special_id

# The conversation, as the authors write it for drawing, without a system prompt: Janus-Pro's, and Janus-1.3B's.
PROMPT_TEMPLATE = "<|User|>: {prompt}\n\n<|Assistant|>:"
FIRST_PROMPT_TEMPLATE = "User: {prompt}\n\nAssistant:"
BEGIN_OF_IMAGE = "<begin_of_image>"
SAMPLING_FILE = "softdecode_sampling.json"


class JanusModel(RowVlm):
    """Janus as an `ImageTokenModel`.

    Args:
        model: transformers' model, in eval mode.
        text_tokenizer: its text tokenizer.
        name: what it is called in messages.
        defaults: sampling settings; the authors' (guidance 5, temperature 1, no top-k) where None.
        prompt_template: the conversation around a prompt; Janus-Pro's by default.
    """

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        text_tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "Janus",
        defaults: SamplingConfig | None = None,
        prompt_template: str = PROMPT_TEMPLATE,
    ) -> None:
        super().__init__()
        self.model = model
        self.text_tokenizer = text_tokenizer
        self.name = name
        self.defaults = defaults or SamplingConfig()
        self.prompt_template = prompt_template
        self.tokenizer = JanusTokenizer(model.model.vqmodel)

    @staticmethod
    def from_pretrained(
        location: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "JanusModel":
        """Load a folder or hub id in transformers' Janus layout, or in the authors' own, strictly.

        A file `softdecode_sampling.json` beside the weights replaces the authors' sampling settings. Janus-1.3B, whose
        conversation has other roles, is known by its name.
        """
        name = Path(location).name
        if read_json(config_file(location, revision)).get("model_type") == "multi_modality":
            location, revision = local_folder(location, revision), None
            model = load_official_janus(location, dtype)
        else:
            model = load_pretrained(JanusForConditionalGeneration, location, revision=revision, dtype=dtype)
        text_tokenizer = load_text_tokenizer(location, (BEGIN_OF_IMAGE,), revision)
        defaults = _read_sampling(Path(location) / SAMPLING_FILE)
        template = FIRST_PROMPT_TEMPLATE if "1.3b" in name.lower() else PROMPT_TEMPLATE
        loaded = JanusModel(model, text_tokenizer, name=name, defaults=defaults, prompt_template=template)
        return loaded.to(device).eval()

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    def prompt_ids(self, prompt: str) -> list[int]:
        """Text ids of a prompt: BOS (which the tokenizer may drop, so it is put here), template, begin-of-image.

        Raises:
            SoftDecodeError: the prompt holds one of the tokenizer's control tokens.
        """
        refuse_control_tokens(self.text_tokenizer, prompt, self.name)
        ids = self.text_tokenizer.encode(
            self.prompt_template.format(prompt=prompt) + BEGIN_OF_IMAGE, add_special_tokens=False
        )
        return [self._special("bos_token_id"), *ids]

    def unconditional_ids(self, ids: Sequence[int]) -> list[int]:
        """The authors' unconditional row: first and last id stay, the rest is padding (attended to)."""
        return [ids[0], *[self._special("pad_token_id")] * (len(ids) - 2), ids[-1]]

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Image tokens [...] to the language model's input [..., D]."""
        return self.model.prepare_embeddings_for_image_generation(tokens)

    def image_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to logits over the codebook [..., V]."""
        return self.model.model.generation_head(hidden)

    def conditional_rows(self, prompts: Sequence[str]) -> list[list[int]]:
        return [self.prompt_ids(prompt) for prompt in prompts]

    def unconditional_rows(self, conditional: Sequence[Sequence[int]]) -> list[list[int]]:
        return [self.unconditional_ids(row) for row in conditional]

    def row_model(self) -> RowModel:
        return RowModel(
            language=self.model.model.language_model,
            config=self.model.config.text_config,
            embed=lambda tokens, _drawn: self.embed_tokens(tokens)[:, None],
            head=self.image_logits,
            tokenizer=self.tokenizer,
            fill=self._special("pad_token_id"),
        )

    def _special(self, name: str) -> int:
        return special_id(self.text_tokenizer, name, self.name)


def _read_sampling(path: Path) -> SamplingConfig | None:
    if not path.is_file():
        return None
    try:
        return SamplingConfig(**read_json(path))
    except TypeError as error:
        raise SoftDecodeError(f"{path} does not hold sampling settings: {error}") from error
