"""Janus and Janus-Pro: transformers' JanusForConditionalGeneration behind our own autoregressive loop.

The library's own `generate` keeps only the last step's scores, and its VQ encoder assigns codes without normalising;
both are avoided here (spec section 6).
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    JanusForConditionalGeneration,
    PreTrainedTokenizerBase,
    StaticCache,
)
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.files import read_json
from softdecode.loading import load_pretrained
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import SamplingConfig, check_prompts
from softdecode.vlm.sampling import sample_tokens

# Janus-Pro's conversation, as its authors write it for drawing: no system prompt.
PROMPT_TEMPLATE = "<|User|>: {prompt}\n\n<|Assistant|>:"
BEGIN_OF_IMAGE = "<begin_of_image>"
SAMPLING_FILE = "softdecode_sampling.json"


class JanusTokenizer(nn.Module):
    """The VQ side of Janus: a JanusVQVAE with tokens by cosine."""

    def __init__(self, model: JanusVQVAE) -> None:
        super().__init__()
        self.model = model

    @property
    def codebook(self) -> Tensor:
        return F.normalize(self.model.quantize.embedding.weight.detach().float(), dim=-1)

    @property
    def grid(self) -> tuple[int, int]:
        side = self.model.quantize.quant_state_dims[0]
        return side, side

    @property
    def image_size(self) -> tuple[int, int]:
        stride = 2 ** (len(self.model.config.channel_multiplier) - 1)
        return self.grid[0] * stride, self.grid[1] * stride

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != (3, *self.image_size):
            raise SoftDecodeError(
                f"images must be [B, 3, {self.image_size[0]}, {self.image_size[1]}], got {list(images.shape)}"
            )
        weight = self.model.quant_conv.weight
        hidden = self.model.encoder(images.to(weight.device, weight.dtype))
        return self.model.quant_conv(hidden).permute(0, 2, 3, 1).float()

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        flat: Any = tokens.flatten(1)  # annotated as LongTensor upstream
        return self.model.decode(flat).float().clamp(-1, 1)

    @torch.no_grad()
    def decode_codes(self, codes: Tensor) -> Tensor:
        weight = self.model.post_quant_conv.weight
        unit = F.normalize(codes.to(weight.device, weight.dtype), dim=-1).permute(0, 3, 1, 2)
        return self.model.decoder(self.model.post_quant_conv(unit)).float().clamp(-1, 1)


class JanusModel(nn.Module):
    """Janus as an `ImageTokenModel`.

    Args:
        model: transformers' model, in eval mode.
        text_tokenizer: its text tokenizer.
        name: what it is called in messages.
        defaults: sampling settings; the authors' (guidance 5, temperature 1, no top-k) where None.
    """

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        text_tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "Janus",
        defaults: SamplingConfig | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.text_tokenizer = text_tokenizer
        self.name = name
        self.defaults = defaults or SamplingConfig()
        self.tokenizer = JanusTokenizer(model.model.vqmodel)

    @staticmethod
    def from_pretrained(
        location: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "JanusModel":
        """Load a folder or hub id in transformers' Janus layout, strictly.

        A file `softdecode_sampling.json` beside the weights replaces the authors' sampling settings.
        """
        model = load_pretrained(JanusForConditionalGeneration, location, revision=revision, dtype=dtype)
        try:
            text_tokenizer = AutoTokenizer.from_pretrained(str(location), revision=revision)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SoftDecodeError(
                f"cannot load the text tokenizer of {location}: {' '.join(str(error).split())}"
            ) from error
        defaults = _read_sampling(Path(location) / SAMPLING_FILE)
        return JanusModel(model, text_tokenizer, name=Path(location).name, defaults=defaults).to(device).eval()

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
        added = self.text_tokenizer.added_tokens_decoder.values()  # some are plain letters, and no control tokens
        control = sorted(token.content for token in added if token.special and token.content in prompt)
        if control:
            raise SoftDecodeError(
                f"the prompt {prompt!r} holds control tokens of {self.name}: {', '.join(control)}; leave them out"
            )
        ids = self.text_tokenizer.encode(
            PROMPT_TEMPLATE.format(prompt=prompt) + BEGIN_OF_IMAGE, add_special_tokens=False
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
        sampling = sampling or self.defaults
        guided = sampling.guidance_scale != 1
        rows = [self.prompt_ids(prompt) for prompt in prompts]
        if guided:
            rows += [self.unconditional_ids(row) for row in rows]
        language = self.model.model.language_model
        total = self.tokenizer.grid[0] * self.tokenizer.grid[1]
        ids, mask = self._left_padded(rows)
        # Positions count real ids only, so that a row's numbers do not depend on its neighbours' lengths.
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        text_config: Any = self.model.config.text_config
        cache = StaticCache(config=text_config, max_cache_len=ids.shape[1] + total)
        state = {"mask": mask, "position": positions[:, -1:]}

        def next_logits(tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
            if tokens is None:
                embeds, where = language.get_input_embeddings()(ids), positions
            else:
                embeds = self.embed_tokens(torch.cat([tokens, tokens]) if guided else tokens)[:, None]
                state["mask"] = F.pad(state["mask"], (0, 1), value=1)
                state["position"] = where = state["position"] + 1
            output = language(
                inputs_embeds=embeds,
                attention_mask=state["mask"],
                position_ids=where,
                past_key_values=cache,
                use_cache=True,
            )
            logits = self.image_logits(output.last_hidden_state[:, -1])
            return (logits[: len(prompts)], logits[len(prompts) :]) if guided else (logits, None)

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

    def _left_padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and attention mask [rows, longest] int64; the filling on the left is never attended to."""
        longest = max(map(len, rows))
        fill = self._special("pad_token_id")
        ids = [[fill] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _special(self, name: str) -> int:
        value = getattr(self.text_tokenizer, name)
        if value is None:
            raise SoftDecodeError(
                f"the text tokenizer of {self.name} has no {name}; its tokenizer files are incomplete"
            )
        return value


def _read_sampling(path: Path) -> SamplingConfig | None:
    if not path.is_file():
        return None
    try:
        return SamplingConfig(**read_json(path))
    except TypeError as error:
        raise SoftDecodeError(f"{path} does not hold sampling settings: {error}") from error
