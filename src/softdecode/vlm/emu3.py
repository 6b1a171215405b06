"""Emu3: transformers' Emu3ForConditionalGeneration behind our own autoregressive loop (arXiv 2409.18869).

Image tokens are part of the text vocabulary, in rows that each end with an end-of-line token; only the codes' own
logits are kept, and the line ends are written, not drawn.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import Emu3ForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

from softdecode.files import read_json
from softdecode.loading import config_file, load_pretrained
from softdecode.vlm.base import SamplingConfig
from softdecode.vlm.euclidean import EuclideanTokenizer
from softdecode.vlm.row_vlm import RowVlm
from softdecode.vlm.rows import RowModel
from softdecode.vlm.shared_vocabulary import code_ids, rows_in_vocabulary
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


class Emu3Tokenizer(EuclideanTokenizer):
    """The VQ side of Emu3.

    Args:
        model: transformers' tokenizer, which is made for video; pictures are frames repeated.
        image_size: (height, width) in pixels.
    """

    def __init__(self, model: Emu3VQVAE, image_size: tuple[int, int]) -> None:
        super().__init__(model, model.quantize.embedding, image_size, model.spatial_scale_factor)

    def encode_vectors(self, images: Tensor) -> Tensor:
        video = images[:, None].repeat(1, self.model.config.temporal_downsample_factor, 1, 1, 1)
        hidden = self.model.encoder(video).permute(0, 2, 1, 3, 4)
        return self.model.quant_conv(hidden)[:, :, 0].permute(0, 2, 3, 1)

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        quantised = vectors.permute(0, 3, 1, 2)[:, :, None]
        hidden = self.model.post_quant_conv(quantised).permute(0, 2, 1, 3, 4)
        video = self.model.decoder(hidden, quantised.permute(0, 2, 1, 3, 4))
        config = self.model.config
        frames = video.reshape(len(vectors), config.temporal_downsample_factor, config.out_channels, *self.image_size)
        return frames[:, 0]


class Emu3Model(RowVlm):
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
        codes = len(model.model.vqmodel.quantize.embedding.weight)
        self.register_buffer("text_ids", code_ids(model.vocabulary_mapping.img2bpe, codes, name), persistent=False)

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

    def conditional_rows(self, prompts: Sequence[str]) -> list[list[int]]:
        return [self.prompt_ids(prompt + self.prompt_suffix) for prompt in prompts]

    def unconditional_rows(self, conditional: Sequence[Sequence[int]]) -> list[list[int]]:
        return [self.prompt_ids(self.negative_prompt)] * len(conditional)

    def row_model(self) -> RowModel:
        return rows_in_vocabulary(
            self.model,
            language=self.model.model.text_model,
            config=self.model.config.text_config,
            tokenizer=self.tokenizer,
            text_ids=self.get_buffer("text_ids"),
            fill=special_id(self.text_tokenizer, "pad_token_id", self.name),
            line_end=self.text_tokenizer.get_vocab()[LINE_END],
        )
