"""Emu3: transformers' Emu3ForConditionalGeneration behind our own autoregressive loop (arXiv 2409.18869).

Image tokens are part of the text vocabulary, in rows that each end with an end-of-line token; only the codes' own
logits are kept, and the line ends are written, not drawn.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Emu3ForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.files import read_json
from softdecode.loading import config_file, load_pretrained
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import SamplingConfig, check_prompts
from softdecode.vlm.euclidean import LiftedCodebook
from softdecode.vlm.rows import CachedRows
from softdecode.vlm.sampling import sample_tokens
from softdecode.vlm.text import load_text_tokenizer, refuse_control_tokens, special_id

IMAGE_START, IMAGE_TOKEN, LINE_END = "<|image start|>", "<|image token|>", "<|extra_200|>"
# What its authors add to a prompt, and put in place of one for the unconditional row.
PROMPT_SUFFIX = " masterpiece, film grained, best quality."
NEGATIVE_PROMPT = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)
DEFAULTS = SamplingConfig(guidance_scale=3.0, temperature=1.0, top_k=2048)
_AREA = 720 * 720


class Emu3Tokenizer(nn.Module):
    """The VQ side of Emu3, whose codes are compared by Euclidean distance.

    Args:
        model: transformers' tokenizer, which is made for video; pictures are frames repeated.
        image_size: (height, width) in pixels.
    """

    def __init__(self, model: Emu3VQVAE, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.image_size = image_size
        stride = model.spatial_scale_factor
        if image_size[0] % stride or image_size[1] % stride:
            raise SoftDecodeError(f"image size {image_size} does not fit the token grid; use multiples of {stride}")

    @property
    def codebook(self) -> Tensor:
        return self._lifted.vectors

    @property
    def grid(self) -> tuple[int, int]:
        stride = self.model.spatial_scale_factor
        return self.image_size[0] // stride, self.image_size[1] // stride

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != (3, *self.image_size):
            raise SoftDecodeError(
                f"images must be [B, 3, {self.image_size[0]}, {self.image_size[1]}], got {list(images.shape)}"
            )
        weight = self.model.quantize.embedding.weight
        frames = self.model.config.temporal_downsample_factor
        video = images.to(weight.device, weight.dtype)[:, None].repeat(1, frames, 1, 1, 1)
        hidden = self.model.encoder(video).permute(0, 2, 1, 3, 4)
        return self._lifted.lift(self.model.quant_conv(hidden)[:, :, 0].permute(0, 2, 3, 1))

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        return self._decode(self.model.quantize.embedding(tokens))

    @torch.no_grad()
    def decode_codes(self, codes: Tensor) -> Tensor:
        return self._decode(self._lifted.lower(codes).to(self.model.quantize.embedding.weight))

    def _decode(self, vectors: Tensor) -> Tensor:
        """Code vectors [B, h, w, d] of the quantiser's own length to the first of the frames [B, 3, H, W]."""
        quantised = vectors.permute(0, 3, 1, 2)[:, :, None]
        hidden = self.model.post_quant_conv(quantised).permute(0, 2, 1, 3, 4)
        video = self.model.decoder(hidden, quantised.permute(0, 2, 1, 3, 4))
        frames = self.model.config.temporal_downsample_factor
        pictures = video.reshape(len(vectors), frames, self.model.config.out_channels, *self.image_size)
        return pictures[:, 0].float().clamp(-1, 1)

    @property
    def _lifted(self) -> LiftedCodebook:
        return LiftedCodebook(self.model.quantize.embedding.weight)


class Emu3Model(nn.Module):
    """Emu3 as an `ImageTokenModel`.

    Args:
        model: transformers' model, in eval mode.
        text_tokenizer: its text tokenizer.
        image_size: (height, width) in pixels to draw; the authors draw areas of 720·720.
        name: what it is called in messages.
        defaults: sampling settings; the authors' (guidance 3, temperature 1, top-k 2048) where None.
        prompt_suffix, negative_prompt: the authors' by default.
    """

    def __init__(
        self,
        model: Emu3ForConditionalGeneration,
        text_tokenizer: PreTrainedTokenizerBase,
        *,
        image_size: tuple[int, int] = (720, 720),
        name: str = "Emu3",
        defaults: SamplingConfig | None = None,
        prompt_suffix: str = PROMPT_SUFFIX,
        negative_prompt: str = NEGATIVE_PROMPT,
    ) -> None:
        super().__init__()
        self.model = model
        self.text_tokenizer = text_tokenizer
        self.name = name
        self.defaults = defaults or DEFAULTS
        self.prompt_suffix = prompt_suffix
        self.negative_prompt = negative_prompt
        self.tokenizer = Emu3Tokenizer(model.model.vqmodel, image_size)
        known = model.vocabulary_mapping.img2bpe
        codes = len(model.model.vqmodel.quantize.embedding.weight)
        if sorted(known) != list(range(codes)):
            raise SoftDecodeError(f"{name} has {codes} codes, but its vocabulary_map names {len(known)} visual tokens")
        self.register_buffer("text_ids", torch.tensor([known[code] for code in range(codes)]), persistent=False)

    @staticmethod
    def from_pretrained(
        location: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Emu3Model":
        """Load a folder or hub id in transformers' Emu3 layout, strictly; `image_area` in its config is the area."""
        content = read_json(config_file(location, revision))
        side = round(content.get("image_area", _AREA) ** 0.5)
        text_tokenizer = load_text_tokenizer(location, (IMAGE_START, IMAGE_TOKEN, LINE_END), revision)
        model = load_pretrained(Emu3ForConditionalGeneration, location, revision=revision, dtype=dtype)
        loaded = Emu3Model(model, text_tokenizer, image_size=(side, side), name=Path(location).name)
        return loaded.to(device).eval()

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    def prompt_ids(self, prompt: str) -> list[int]:
        """Text ids: BOS, the prompt, image start, the grid's size in words, and the token that images follow."""
        refuse_control_tokens(self.text_tokenizer, prompt, self.name)
        rows, columns = self.tokenizer.grid
        text = f"{prompt}{IMAGE_START}{rows}*{columns}{IMAGE_TOKEN}"
        ids = self.text_tokenizer.encode(text, add_special_tokens=False)
        return [special_id(self.text_tokenizer, "bos_token_id", self.name), *ids]

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
        texts = [self.prompt_ids(prompt + self.prompt_suffix) for prompt in prompts]
        if guided:
            texts += [self.prompt_ids(self.negative_prompt)] * len(prompts)
        height, width = self.tokenizer.grid
        text_config: Any = self.model.config.text_config
        fill = special_id(self.text_tokenizer, "pad_token_id", self.name)
        rows = CachedRows(self.model.model.text_model, text_config, texts, fill=fill, extra=height * (width + 1))
        line_end = self.text_tokenizer.get_vocab()[LINE_END]
        text_ids = self.get_buffer("text_ids")
        drawn = 0

        def next_logits(tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
            nonlocal drawn
            if tokens is None:
                hidden = rows.prompt()
            else:
                drawn += 1
                ids = text_ids[torch.cat([tokens, tokens]) if guided else tokens][:, None]
                if drawn % width == 0:
                    ids = torch.cat([ids, torch.full_like(ids, line_end)], dim=1)
                hidden = rows.extend(self.model.get_input_embeddings()(ids))
            logits = self.model.lm_head(hidden)[:, text_ids]
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
