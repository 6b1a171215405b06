"""The Chameleon family: Chameleon and Anole, transformers' ChameleonForConditionalGeneration (arXiv 2405.09818).

transformers keeps only the encoder of the VQ tokenizer, and rules image tokens out in its `forward`. The tokenizer is
read from the original release's `vqgan.ckpt` into diffusers' VQModel, which has its structure; the loop is ours.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import VQModel
from torch import Size, Tensor
from transformers import ChameleonForConditionalGeneration, PreTrainedTokenizerBase

from softdecode.errors import SoftDecodeError
from softdecode.files import listing
from softdecode.ldm_naming import converted_ldm, ldm_sizes
from softdecode.loading import load_pretrained, local_folder
from softdecode.shards import fill, read_checkpoint
from softdecode.vlm.base import SamplingConfig
from softdecode.vlm.euclidean import EuclideanTokenizer
from softdecode.vlm.row_vlm import RowVlm
from softdecode.vlm.rows import RowModel
from softdecode.vlm.shared_vocabulary import code_ids, rows_in_vocabulary
from softdecode.vlm.text import load_text_tokenizer, refuse_control_tokens, special_id

IMAGE_START, TURN_END = "<racm3:break>", "<reserved08706>"
VQ_FILE = "vqgan.ckpt"
DEFAULTS = SamplingConfig(guidance_scale=3.0, temperature=0.7, top_p=0.9)


class ChameleonTokenizer(EuclideanTokenizer):
    """The VQ side of Chameleon: all of it, encoder and decoder.

    Args:
        model: diffusers' VQModel.
        image_size: (height, width) in pixels.
    """

    def __init__(self, model: VQModel, image_size: tuple[int, int] = (512, 512)) -> None:
        stride = 2 ** (len(model.config["block_out_channels"]) - 1)
        super().__init__(model, model.quantize.embedding, image_size, stride)

    def encode_vectors(self, images: Tensor) -> Tensor:
        return self.model.quant_conv(self.model.encoder(images)).permute(0, 2, 3, 1)

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        return self.model.decoder(self.model.post_quant_conv(vectors.permute(0, 3, 1, 2)))


class ChameleonModel(RowVlm):
    """Chameleon or Anole as an `ImageTokenModel`.

    Args:
        model: transformers' model, in eval mode.
        tokenizer: the VQ side.
        text_tokenizer: its text tokenizer.
        name: what it is called in messages.
        defaults: sampling settings; the authors' (guidance 3, temperature 0.7, top-p 0.9) where None.

    Raises:
        SoftDecodeError: the VQ tokenizer's codebook is not the one that the model was trained with.
    """

    def __init__(
        self,
        model: ChameleonForConditionalGeneration,
        tokenizer: ChameleonTokenizer,
        text_tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "Chameleon",
        defaults: SamplingConfig | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.text_tokenizer = text_tokenizer
        self.name = name
        self.defaults = defaults or DEFAULTS
        own, given = model.model.vqmodel.quantize.embedding.weight, tokenizer.model.quantize.embedding.weight
        if own.shape != given.shape or not torch.allclose(own.float(), given.float(), rtol=1e-2, atol=1e-3):
            raise SoftDecodeError(f"{VQ_FILE} is another model's: its codebook is not that of {name}")
        ids = code_ids(model.model.vocabulary_mapping.img2bpe, len(given), name)
        self.register_buffer("text_ids", ids, persistent=False)

    @staticmethod
    def from_pretrained(
        location: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "ChameleonModel":
        """Load a folder or hub id in transformers' Chameleon layout, with the original `vqgan.ckpt` in it, strictly."""
        folder = local_folder(location, revision)
        if not (folder / VQ_FILE).is_file():
            raise SoftDecodeError(
                f"{location} has no VQ decoder, which transformers leaves out: looked for {VQ_FILE} of the original "
                f"release, found {listing(folder)}; put it there"
            )
        text_tokenizer = load_text_tokenizer(folder, (IMAGE_START, TURN_END))
        model = load_pretrained(ChameleonForConditionalGeneration, folder, dtype=dtype)
        vq_config: Any = model.config.vq_config
        vq, side = load_vqgan(folder / VQ_FILE, dtype), vq_config.resolution
        loaded = ChameleonModel(model, ChameleonTokenizer(vq, (side, side)), text_tokenizer, name=Path(location).name)
        return loaded.to(device).eval()

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    def prompt_ids(self, prompt: str) -> list[int]:
        """Text ids: BOS, the prompt, end of turn, image start."""
        refuse_control_tokens(self.text_tokenizer, prompt, self.name)
        text = self.text_tokenizer.encode(prompt, add_special_tokens=False)
        start = self.unconditional_ids()
        return [start[0], *text, self._id(TURN_END), start[1]]

    def unconditional_ids(self) -> list[int]:
        """The authors' unconditional row: BOS and image start."""
        return [special_id(self.text_tokenizer, "bos_token_id", self.name), self._id(IMAGE_START)]

    def conditional_rows(self, prompts: Sequence[str]) -> list[list[int]]:
        return [self.prompt_ids(prompt) for prompt in prompts]

    def unconditional_rows(self, conditional: Sequence[Sequence[int]]) -> list[list[int]]:
        return [self.unconditional_ids()] * len(conditional)

    def row_model(self) -> RowModel:
        return rows_in_vocabulary(
            self.model,
            language=self.model.model,
            config=self.model.config,
            tokenizer=self.tokenizer,
            text_ids=self.get_buffer("text_ids"),
            fill=special_id(self.text_tokenizer, "pad_token_id", self.name),
        )

    def _id(self, token: str) -> int:
        return self.text_tokenizer.get_vocab()[token]


def load_vqgan(path: Path, dtype: torch.dtype) -> VQModel:
    """Load Chameleon's VQ tokenizer in the original naming (`vqgan.ckpt`), strictly; the training loss is left out.

    Raises:
        SoftDecodeError: a damaged file, pickled objects, another structure, or keys that do not fit, all listed.
    """
    weights = {name: value for name, value in read_checkpoint(path).items() if not name.startswith("loss.")}
    try:
        config = vqgan_config({name: value.shape for name, value in weights.items()})
    except (KeyError, ValueError) as error:
        raise SoftDecodeError(f"{path} is no VQ tokenizer in the original naming: it lacks {error}") from error
    with init_empty_weights(include_buffers=False):
        model = VQModel(**config)
    levels = len(config["block_out_channels"])
    return fill(model, (converted_ldm(name, value, levels) for name, value in weights.items()), dtype, str(path))


def vqgan_config(shapes: Mapping[str, Size]) -> dict[str, Any]:
    """The arguments of diffusers' VQModel that fit weights of these shapes."""
    codes, dim = shapes["quantize.embedding.weight"]
    return {
        **ldm_sizes(shapes),
        "latent_channels": shapes["quant_conv.weight"][1],
        "vq_embed_dim": dim,
        "num_vq_embeddings": codes,
    }
