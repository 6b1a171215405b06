"""From training pictures to features, by the frozen models: VQ tokenizer, VAE and, for teacher forcing, the VLM."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from softdecode.errors import SoftDecodeError
from softdecode.files import state_sha256
from softdecode.images import to_uint8, to_unit_range
from softdecode.latents import encode_images
from softdecode.training.augment import corrupt_tokens
from softdecode.training.features import STORED_DTYPES, Features
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel, SamplingConfig, nearest_tokens
from softdecode.vlm.teacher_forcing import belief_about

_VERSION = 5  # raise it when the arithmetic changes


@dataclass(frozen=True, kw_only=True)
class FeatureEncoder:
    """The frozen models, and what is asked of them.

    Attributes:
        tokenizer: of the VLM.
        vae: of the decoder's base.
        vlm: for the beliefs of teacher forcing; None where no decoder is trained on them.
        sampling: guidance and temperature of the beliefs; the VLM's own where None.
        drafts: whether a decoder sees the VQ decoder's picture.
        corruption: share of the tokens that are swapped for likely neighbours, in [0, 1].
    """

    tokenizer: ImageTokenizer
    vae: AutoencoderKL
    vlm: ImageTokenModel | None = None
    sampling: SamplingConfig | None = None
    drafts: bool = True
    corruption: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.corruption <= 1:
            raise SoftDecodeError(f"the corruption is a share of the tokens, in [0, 1], got {self.corruption}")

    def identity(self) -> dict[str, Any]:
        """All that features depend on besides the pictures: weights by hash, settings by value."""
        sampling = None if self.vlm is None else asdict(self.sampling or self.vlm.defaults)
        return {
            "version": _VERSION,
            "tokenizer": module_sha256(self.tokenizer),
            "vae": module_sha256(self.vae),
            "latent_scale": [self.vae.config["shift_factor"], self.vae.config["scaling_factor"]],
            "vlm": None if self.vlm is None else module_sha256(self.vlm),
            "sampling": sampling,
            "drafts": self.drafts,
            "corruption": self.corruption,
            "stored": {name: str(dtype) for name, dtype in STORED_DTYPES.items()},
        }

    @torch.no_grad()
    def encode(self, images: Tensor, captions: Sequence[str | None], generators: Sequence[torch.Generator]) -> Features:
        """Features of pictures [B, 3, H, W] uint8, on the CPU in the dtypes that are stored.

        Args:
            images: the pictures.
            captions: of each, for the VLM's belief; a picture without one gets the unconditional belief.
            generators: B sources of randomness, for the corruption.
        """
        unit = to_unit_range(images)
        codes = self.tokenizer.features(unit)
        tokens = nearest_tokens(codes, self.tokenizer.codebook)
        tokens = corrupt_tokens(tokens, self.tokenizer.codebook, self.corruption, generators)
        found = {"codes": codes, "tokens": tokens, "latents": self._latents(unit)}
        if self.drafts:
            found["drafts"] = self._latents(to_unit_range(self._pictures(tokens)))
        if self.vlm is not None:
            belief = belief_about(self.vlm, tokens, captions, sampling=self.sampling)
            found |= {"belief_codes": belief.codes, "belief_uncertainty": belief.uncertainty}
        return Features(**{name: value.cpu().to(STORED_DTYPES[name]).contiguous() for name, value in found.items()})

    # Latents and drafts are kept in bfloat16, so they are computed in it.

    def _pictures(self, tokens: Tensor) -> Tensor:
        with torch.autocast(self.vae.device.type, torch.bfloat16):
            return to_uint8(self.tokenizer.decode(tokens))

    def _latents(self, unit: Tensor) -> Tensor:
        with torch.autocast(self.vae.device.type, torch.bfloat16):
            return encode_images(self.vae, unit)


def module_sha256(model: object) -> str:
    """A hash over all of a module's tensors and their names."""
    assert isinstance(model, nn.Module)
    return state_sha256(model.state_dict())
