"""The contract between softdecode and a VLM that draws with image tokens."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.mapping import TokenDistribution


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How image tokens are drawn.

    Attributes:
        guidance_scale: classifier-free guidance w >= 0: logits = uncond + w·(cond - uncond); 1 is none.
        temperature: > 0, divides the guided logits; 0 takes the most probable token.
        top_k: tokens to draw from; 0 is all.
        top_p: the most probable tokens are drawn from whose mass, among the top_k, first exceeds this share, in (0, 1].
            The belief that is mapped is the one before either cut.
    """

    guidance_scale: float = 5.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.guidance_scale < math.inf and 0 <= self.temperature < math.inf and self.top_k >= 0):
            raise SoftDecodeError(
                "guidance_scale, temperature and top_k must be finite and not negative, got "
                f"{self.guidance_scale}, {self.temperature} and {self.top_k}"
            )
        if not 0 < self.top_p <= 1:
            raise SoftDecodeError(f"top_p is a share of the probability, in (0, 1], got {self.top_p}")


@runtime_checkable
class ImageTokenizer(Protocol):
    """The VQ side of a VLM."""

    @property
    def codebook(self) -> Tensor:
        """[V, d] float32, L2-normalised rows."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] to features [B, h, w, d] float32, before quantisation."""
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, h, w] int64 to images [B, 3, H, W] float32 in [-1, 1]: the fast path."""
        ...

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Code vectors [B, h, w, d], of any length > 0, to images: normalised, then decoded as the codes are."""
        ...


@runtime_checkable
class ImageTokenModel(Protocol):
    """A VLM that draws."""

    @property
    def name(self) -> str:
        """What it is called in messages and result files."""
        ...

    @property
    def tokenizer(self) -> ImageTokenizer: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def defaults(self) -> SamplingConfig:
        """The sampling settings that its authors use."""
        ...

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
        """Draw one image for each prompt.

        Args:
            prompts: B prompts.
            seeds: B seeds, one for each image; batching changes nothing.
            sampling: the model's own defaults where None.
            calibration: its label smoothing is applied to the belief that is mapped, never to the draw.
            on_token: called after each token with (done, total).
            on_logits: called at each token with the guided, tempered logits [B, V], for statistics.

        Returns:
            The distribution on the model's device.
        """
        ...

    def teacher_force(
        self,
        prompts: Sequence[str] | None,
        tokens: Tensor,
        *,
        sampling: SamplingConfig | None = None,
        calibration: Calibration | None = None,
    ) -> TokenDistribution:
        """The model's belief about images that are given, in one parallel pass: what `sample` would have returned, had
        it drawn these tokens (spec section 2).

        Args:
            prompts: B prompts; None for images without, whose belief is that of the unconditional row.
            tokens: [B, h, w] int64, the images.
            sampling: guidance and temperature of the belief; the model's own defaults where None.
            calibration: its label smoothing is applied to the belief.

        Returns:
            The distribution on the model's device, with `tokens` as the chosen ones.

        Raises:
            SoftDecodeError: tokens of another grid or codebook, or another number of prompts.
        """
        ...


def check_prompts(prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Refuse empty prompts and a number of seeds that differs from that of the prompts."""
    if not prompts or len(seeds) != len(prompts):
        raise SoftDecodeError(
            f"{len(prompts)} prompts need as many seeds and at least one prompt, got {len(seeds)} seeds"
        )
    empty = [place for place, prompt in enumerate(prompts) if not prompt.strip()]
    if empty:
        raise SoftDecodeError(f"prompt {empty[0] + 1} of {len(prompts)} is empty; say what to draw")


def nearest_tokens(features: Tensor, codebook: Tensor) -> Tensor:
    """Tokens [B, h, w] int64 of features [B, h, w, d]: the code of greatest cosine (spec section 6)."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    return (unit @ codebook.to(features.device, torch.float32).T).argmax(-1)
