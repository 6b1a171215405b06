"""LlamaGen behind the contract of a VLM that draws with image tokens."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.loading import local_folder
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import SamplingConfig, check_prompts
from softdecode.vlm.janus_tokenizer import JanusTokenizer
from softdecode.vlm.llamagen.captions import CaptionEncoder
from softdecode.vlm.llamagen.checkpoint import load_parts
from softdecode.vlm.llamagen.gpt import KeyValues, LlamaGenGpt, attention_mask
from softdecode.vlm.sampling import sample_tokens
from softdecode.vlm.teacher_forcing import map_forced, settle_forcing

CAPTION_DEFAULTS = SamplingConfig(guidance_scale=7.5, temperature=1.0, top_k=1000)
CLASS_DEFAULTS = SamplingConfig(guidance_scale=4.0, temperature=1.0, top_k=2000)


class LlamaGenModel(nn.Module):
    """LlamaGen as an `ImageTokenModel`: text to image with captions, or class to image with a class number as prompt.

    Args:
        gpt: the transformer, in eval mode.
        tokenizer: VQ-16.
        captions: encodes prompts; None for class conditions.
        name: what it is called in messages.
        defaults: sampling settings; the authors' where None.
        guidance_steps: tokens after the first that are guided, the others are drawn from the conditional logits
            alone; all where None. It is one more than the official code's `cfg_interval`.
    """

    def __init__(
        self,
        gpt: LlamaGenGpt,
        tokenizer: JanusTokenizer,
        captions: CaptionEncoder | None = None,
        *,
        name: str = "LlamaGen",
        defaults: SamplingConfig | None = None,
        guidance_steps: int | None = None,
    ) -> None:
        super().__init__()
        if (captions is None) != (gpt.config.classes is not None):
            raise SoftDecodeError("a caption model needs a caption encoder, and a class model has no use for one")
        self.gpt = gpt
        self.tokenizer = tokenizer
        self.captions = captions
        self.name = name
        self.defaults = defaults or (CAPTION_DEFAULTS if captions is not None else CLASS_DEFAULTS)
        self.guidance_steps = guidance_steps

    @staticmethod
    def from_pretrained(
        location: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "LlamaGenModel":
        """Load a folder or hub id that `softdecode convert-llamagen` wrote, strictly."""
        folder = local_folder(location, revision)
        gpt, tokenizer, content = load_parts(folder, dtype)
        captions = None
        if content["captions"] is not None:
            beside = folder / content["captions"]
            captions = CaptionEncoder.from_pretrained(beside if beside.is_dir() else content["captions"], dtype=dtype)
        defaults = SamplingConfig(**content["sampling"]) if content.get("sampling") else None
        model = LlamaGenModel(
            gpt,
            tokenizer,
            captions,
            name=Path(location).name,
            defaults=defaults,
            guidance_steps=content.get("guidance_steps"),
        )
        return model.to(device).eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.gpt.output.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.gpt.output.weight.dtype

    def condition(self, prompts: Sequence[str], guided: bool) -> tuple[Tensor, Tensor]:
        """Condition embeddings [rows, T, D] and text mask [rows, T]: conditional rows, then unconditional ones.

        The unconditional rows have the same text mask as the conditional ones, as in the official code.
        """
        config = self.gpt.config
        if self.captions is None:
            classes = torch.tensor([self._class(prompt) for prompt in prompts], device=self.device)
            if guided:
                classes = torch.cat([classes, torch.full_like(classes, config.classes or 0)])
            return self.gpt.cls_embedding(classes), torch.ones(len(classes), 1, device=self.device)
        embeddings, mask = self.captions(prompts)
        embeddings = embeddings.to(self.dtype)
        if guided:
            empty = self.gpt.cls_embedding.get_buffer("uncond_embedding").to(self.dtype)
            embeddings = torch.cat([embeddings, empty.expand(len(prompts), -1, -1)])
            mask = torch.cat([mask, mask])
        return self.gpt.cls_embedding(embeddings), mask

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
        condition, text_mask = self.condition(prompts, guided)
        start = condition.shape[1]
        total = start + self.gpt.config.grid**2
        mask = attention_mask(text_mask, total)
        cache = KeyValues(self.gpt.config, len(condition), total, condition)
        drawn = 0

        def next_logits(tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
            nonlocal drawn
            if tokens is None:
                logits = self.gpt(condition, mask[:, :, :start, :start], cache=cache)[:, -1]
            else:
                place = start + drawn
                drawn += 1
                embeddings = self.gpt.tok_embeddings(torch.cat([tokens, tokens]) if guided else tokens)[:, None]
                step = mask[:, :, place : place + 1, : place + 1]
                logits = self.gpt(embeddings, step, start=place, cache=cache)[:, -1]
            if not guided:
                return logits, None
            conditional, unconditional = logits.chunk(2)
            beyond = self.guidance_steps is not None and drawn > self.guidance_steps
            return conditional, None if beyond else unconditional

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
        guided = sampling.guidance_scale != 1
        batch, tokens = len(tokens), tokens.to(self.device)
        condition, text_mask = self._unconditional(batch) if prompts is None else self.condition(prompts, guided)
        image = self.gpt.tok_embeddings(tokens.flatten(1)[:, :-1])
        embeddings = torch.cat([condition, torch.cat([image, image]) if guided else image], dim=1)
        logits = self.gpt(embeddings, attention_mask(text_mask, embeddings.shape[1]))[:, condition.shape[1] - 1 :]
        conditional, unconditional = logits[:batch], logits[batch:]
        if self.guidance_steps is not None and guided:
            beyond = slice(self.guidance_steps + 1, None)
            unconditional[:, beyond] = conditional[:, beyond]  # no difference to extrapolate from

        def logits_at(places: slice) -> tuple[Tensor, Tensor | None]:
            return conditional[:, places], unconditional[:, places] if guided else None

        return map_forced(
            logits_at, tokens, codebook=self.tokenizer.codebook, sampling=sampling, calibration=calibration
        )

    def _unconditional(self, count: int) -> tuple[Tensor, Tensor]:
        """The rows that `condition` adds for guidance, alone; of an empty caption."""
        if self.captions is not None:
            condition, mask = self.condition([""] * count, guided=True)
            return condition[count:], mask[count:]
        nothing = torch.full((count,), self.gpt.config.classes or 0, device=self.device)
        return self.gpt.cls_embedding(nothing), torch.ones(count, 1, device=self.device)

    def _class(self, prompt: str) -> int:
        classes = self.gpt.config.classes or 0
        if not prompt.strip().isdigit() or int(prompt) >= classes:
            raise SoftDecodeError(
                f"{self.name} draws classes: a prompt is a number from 0 to {classes - 1}, got {prompt!r}"
            )
        return int(prompt)
