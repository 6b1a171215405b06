"""Training of the small VLM: a plain transformers JanusForConditionalGeneration that learns to draw.

It learns image tokens given a caption, and given the unconditional row, so that classifier-free guidance works. Its
understanding half (the vision tower) exists, since the class has it, and stays untrained.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.data.emoji import Emoji
from softdecode.errors import SoftDecodeError
from softdecode.training.task import Task
from softdecode.vlm.janus import BEGIN_OF_IMAGE, PROMPT_TEMPLATE, JanusModel
from softdecode.vlm.rows import padded_rows, parallel_hidden
from softdecode.vlm.text import special_id

SPECIAL_TOKENS = (
    "<|begin_of_sentence|>",
    "<|pad|>",
    "<|end_of_sentence|>",
    "<|User|>",
    "<|Assistant|>",
    BEGIN_OF_IMAGE,
)


@dataclass(frozen=True, kw_only=True)
class VlmConfig:
    """The VLM's size and how it is taught."""

    hidden_size: int = 256
    """Width of the language model."""
    intermediate_size: int = 768
    """Width of its MLPs."""
    layers: int = 8
    """Its layers."""
    heads: int = 4
    """Its attention heads."""
    vocabulary: int = 2048
    """Text vocabulary, special tokens included."""
    unconditional: float = 0.1
    """Share of samples with the unconditional row, for guidance, in [0, 1]."""
    keyword_captions: float = 0.25
    """Share of samples whose caption has some keywords added, in [0, 1]; the others have the clean caption."""
    rare_repeats: int = 1
    """How often an epoch shows the pictures of small families, >= 1. A family with skin tones and genders has dozens of
    pictures that resemble each other, and is learnt long before a red apple, which has one in each style."""
    rare_family: int = 6
    """Families of at most so many pictures are small."""

    def __post_init__(self) -> None:
        if self.rare_repeats < 1 or not (0 <= self.unconditional <= 1 and 0 <= self.keyword_captions <= 1):
            raise SoftDecodeError(
                "the VLM's captions need shares in [0, 1] and repeats of at least 1, got "
                f"unconditional={self.unconditional}, keyword_captions={self.keyword_captions}, "
                f"rare_repeats={self.rare_repeats}"
            )


def train_text_tokenizer(captions: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Janus's special tokens. Like Janus's, it adds no BOS itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((PROMPT_TEMPLATE.format(prompt=caption) for caption in captions), trainer)
    bos, pad, eos = SPECIAL_TOKENS[:3]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, pad_token=pad, eos_token=eos)


def build_vlm(config: VlmConfig, tokenizer: JanusVQVAE, text_tokenizer: PreTrainedTokenizerFast) -> JanusModel:
    """A Janus with random language weights around a trained VQ tokenizer."""
    grid = tokenizer.config.num_patches
    special: Any = text_tokenizer  # its ids are annotated as anything at all
    model = JanusForConditionalGeneration(
        JanusConfig(
            text_config=LlamaConfig(
                vocab_size=len(text_tokenizer),
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.heads,
                max_position_embeddings=512,
                bos_token_id=special.bos_token_id,
                eos_token_id=special.eos_token_id,
                pad_token_id=special.pad_token_id,
            ),
            vision_config=JanusVisionConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=8 * grid,
                patch_size=8,
                mlp_ratio=2.0,
                projection_dim=config.hidden_size,
                num_image_tokens=grid * grid,
                depth=1,
            ),
            vq_config=tokenizer.config,
            image_token_id=special.convert_tokens_to_ids(BEGIN_OF_IMAGE),
            tie_word_embeddings=False,
        )
    )
    model.model.vqmodel.load_state_dict(tokenizer.state_dict())
    return JanusModel(model, text_tokenizer, name="embedded")


class VlmTask(Task):
    """Trains a `JanusModel` on image tokens with captions.

    Args:
        vlm: what to train; only its language model, image embeddings, aligner and image head are trained.
        tokens: [M, N] int64 image tokens.
        emoji: the M records, for captions.
        config: how captions are drawn.
    """

    def __init__(self, vlm: JanusModel, tokens: Tensor, emoji: Sequence[Emoji], config: VlmConfig) -> None:
        super().__init__()
        self.vlm = vlm
        self.tokens = tokens
        self.emoji = emoji
        self.config = config
        self.rows = _epoch_rows(emoji, config)
        self.samples = len(self.rows)
        janus = vlm.model.model
        vlm.model.requires_grad_(False)
        for part in (
            janus.language_model,
            janus.generation_embeddings,
            janus.generation_aligner,
            janus.generation_head,
        ):
            part.requires_grad_(True)

    def blocks(self) -> list[nn.Module]:
        return list(self.vlm.model.model.language_model.layers)

    def checkpoint_activations(self) -> None:
        options = {"use_reentrant": False}
        self.vlm.model.model.language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)

    def hidden_matrices(self) -> list[nn.Parameter]:
        return [p for block in self.blocks() for p in block.parameters() if p.ndim == 2]

    def batch(self, indices: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        indices = self.rows[indices]
        rows = []
        for index, generator in zip(indices.tolist(), generators, strict=True):
            ids = self.vlm.prompt_ids(self._caption(self.emoji[index], generator))
            if torch.rand((), generator=generator) < self.config.unconditional:
                ids = self.vlm.unconditional_ids(ids)
            rows.append(ids)
        fill = special_id(self.vlm.text_tokenizer, "pad_token_id", self.vlm.name)
        ids, mask = padded_rows(rows, fill, self.vlm.device)
        return {"ids": ids, "mask": mask, "tokens": self.tokens[indices]}

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        logits = teacher_forced_logits(self.vlm, batch["ids"], batch["mask"], batch["tokens"])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch["tokens"].flatten())
        accuracy = (logits.argmax(-1) == batch["tokens"]).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    def _caption(self, emoji: Emoji, generator: torch.Generator) -> str:
        if not emoji.keywords or torch.rand((), generator=generator) >= self.config.keyword_captions:
            return emoji.caption
        count = int(torch.randint(1, 4, (), generator=generator))
        order = torch.randperm(len(emoji.keywords), generator=generator)[:count].tolist()
        return ", ".join([emoji.caption, *(emoji.keywords[place] for place in order)])


def _epoch_rows(emoji: Sequence[Emoji], config: VlmConfig) -> Tensor:
    """Rows of the data that an epoch goes through [S] int64: those of small families several times."""
    sizes = Counter(record.family for record in emoji)
    repeats = [config.rare_repeats if sizes[record.family] <= config.rare_family else 1 for record in emoji]
    return torch.arange(len(emoji)).repeat_interleave(torch.tensor(repeats))


def teacher_forced_logits(vlm: JanusModel, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """Logits [B, N, V] of every image token given the ones before it, in one parallel pass.

    Args:
        vlm: the model.
        ids, mask: [B, L] left-padded prompt rows.
        tokens: [B, N] int64 true image tokens.
    """
    hidden = parallel_hidden(vlm.model.model.language_model, ids, mask, vlm.embed_tokens(tokens[:, :-1]))
    return vlm.image_logits(hidden)
