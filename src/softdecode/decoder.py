"""The Distribution-Conditioned Diffusion Decoder (DCDD): token distributions in, images out.

Paper section B.3; spec section 3.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from softdecode import flow
from softdecode.base import DecoderBase, load_base
from softdecode.calibration import Calibration
from softdecode.conditioning import ConditionEncoder, ConditioningMode, condition_inputs
from softdecode.decoder_config import FORMAT, DecoderConfig, base_location, read_config
from softdecode.errors import SoftDecodeError
from softdecode.files import (
    atomic_folder,
    load_strictly,
    read_tensors,
    state_sha256,
    tensor_sha256,
    write_json,
    write_tensors,
)
from softdecode.images import to_unit_range
from softdecode.latents import decode_latents, encode_images, pack, unpack
from softdecode.lora import add_lora, plain_name, refuse_lora
from softdecode.mapping import TokenDistribution
from softdecode.seeds import image_noise
from softdecode.trained import is_trained

_CODEBOOK_TOLERANCE = 1e-2  # unit vectors: bfloat16 rounds by 2e-3, other codebooks differ by about 1


class DistributionDecoder(nn.Module):
    """Condition encoder, transformer and VAE: decodes a `TokenDistribution` to images by rectified flow.

    Args:
        config: what it is.
        base: the transformer and VAE; where LoRA is trained, its transformer is given the LoRA layers.
        codebook: [V, d], L2-normalised; must be the one that the config names.
        calibration: the calibration it was trained with; the pipeline applies its smoothing to the VLM's logits.
    """

    codebook: Tensor

    def __init__(self, config: DecoderConfig, base: DecoderBase, codebook: Tensor, calibration: Calibration) -> None:
        super().__init__()
        if tensor_sha256(codebook) != config.codebook_sha256 or codebook.shape[-1] != config.code_dim:
            raise SoftDecodeError(f"the codebook given is not the one this decoder was made for ({config.vlm})")
        refuse_lora(base.transformer)
        if config.lora_rank is not None and config.lora_alpha is not None:
            add_lora(base.transformer, config.lora_rank, config.lora_alpha)
        self.config = config
        self.base = base
        self.calibration = calibration
        self.token_grid = base.token_grid(config.image_size)
        code_channels = config.code_dim * (2 if config.mode == "joint" else 1)
        draft_channels = base.token_channels if config.draft else 0
        self.condition = ConditionEncoder(code_channels, config.hidden_channels, base.token_dim, draft_channels)
        self.register_buffer("codebook", codebook.to(torch.float32), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DistributionDecoder":
        """Moves go to all tensors, but the codebook stays float32: the mapping's arithmetic depends on it."""
        codebook = self.codebook
        super()._apply(fn, recurse)
        self.codebook = codebook.to(self.codebook.device)
        return self

    @property
    def device(self) -> torch.device:
        return self.codebook.device

    @property
    def dtype(self) -> torch.dtype:
        return self.condition.linear.weight.dtype

    def condition_tokens(self, distribution: TokenDistribution, draft: Tensor | None = None) -> Tensor:
        """The condition [B, N, D] of a distribution on this decoder's device; for the draft see `denoise`."""
        codes, uncertainty = condition_inputs(distribution, self.codebook, self.config.mode)
        packed = None if draft is None else pack(encode_images(self.base.vae, to_unit_range(draft).to(self.device)))
        return self.condition(codes, uncertainty, self.token_grid, packed)

    @torch.no_grad()
    def denoise(
        self,
        distribution: TokenDistribution,
        *,
        seeds: Sequence[int],
        draft: Tensor | None = None,
        steps: int | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Decode distributions to images.

        Args:
            distribution: B images.
            seeds: B seeds of the initial noise; the same seed and distribution give the same image in any batch.
            draft: [B, 3, H, W] uint8, the VQ decoder's pictures of the chosen tokens; for decoders whose config says
                that they see a draft, and only for them.
            steps: Euler steps, >= 1; the config's where None.
            on_step: called after each step with (done, total).

        Returns:
            [B, 3, H, W] float32 in [-1, 1].

        Raises:
            SoftDecodeError: steps < 1, a number of seeds that is not B, or a draft missing or not asked for.
        """
        if len(seeds) != len(distribution):
            raise SoftDecodeError(f"{len(distribution)} images need as many decoder seeds, got {len(seeds)}")
        condition = self.condition_tokens(distribution.to(self.device), draft)
        return self.denoise_given(condition, seeds=seeds, steps=steps, on_step=on_step)

    @torch.no_grad()
    def denoise_given(
        self,
        condition: Tensor,
        *,
        seeds: Sequence[int],
        steps: int | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """`denoise`, from condition tokens [B, N, D] instead of distributions."""
        times = flow.sampling_times(self.config.steps if steps is None else steps, self.flow_shift)
        rows, columns = self.token_grid
        noise = pack(image_noise(seeds, (self.base.latent_channels, 2 * rows, 2 * columns), "decoder")).to(self.device)
        noise = noise * self.config.noise_scale

        def velocity(tokens: Tensor, time: float) -> Tensor:
            moment = torch.full((len(tokens),), time, device=self.device)
            return self.base.velocity(tokens, moment, condition, self.token_grid)

        tokens = flow.euler(velocity, noise, times, on_step)
        return decode_latents(self.base.vae, unpack(tokens, self.token_grid))

    @property
    def flow_shift(self) -> float:
        """FLUX's time shift at this decoder's resolution."""
        return flow.resolution_shift(self.token_grid[0] * self.token_grid[1])

    def check_codebook(self, codebook: Tensor, owner: str) -> None:
        """Refuse a VLM with another codebook, naming both.

        Values are compared, not hashes: normalising on another device may differ in the last bit.

        Raises:
            SoftDecodeError: the codebooks differ.
        """
        if not self.fits_codebook(codebook):
            found = tensor_sha256(codebook.to(torch.float32))
            raise SoftDecodeError(
                f"this decoder was trained for the codebook of {self.config.vlm} "
                f"({self.config.codebook_sha256[:12]}), but {owner} has another ({found[:12]}); "
                "use the decoder of this VLM, or train one"
            )

    def fits_codebook(self, codebook: Tensor) -> bool:
        """Whether this decoder was trained for a codebook [V, d]."""
        return same_codebook(codebook, self.codebook)

    @staticmethod
    def untrained(
        base: DecoderBase,
        codebook: Tensor,
        *,
        vlm: str,
        image_size: tuple[int, int],
        base_name: str,
        base_revision: str | None = None,
        mode: ConditioningMode = "soft",
        hidden_channels: int = 64,
    ) -> "DistributionDecoder":
        """A decoder that has learnt nothing yet: it denoises as its base does, whatever the condition.

        Args:
            base: where training starts.
            codebook: [V, d], of the VLM.
            vlm: the VLM's name.
            image_size: (height, width) in pixels of the VLM's pictures.
            base_name, base_revision: what the config shall say of the base.
            mode, hidden_channels: see `DecoderConfig`.
        """
        config = DecoderConfig(
            mode=mode,
            code_dim=codebook.shape[-1],
            hidden_channels=hidden_channels,
            image_size=image_size,
            base=base_name,
            base_revision=base_revision,
            trained="none",
            codebook_sha256=tensor_sha256(codebook),
            vlm=vlm,
        )
        decoder = DistributionDecoder(config, base, codebook, Calibration())
        return decoder.eval().requires_grad_(False)

    def save_pretrained(self, folder: str | os.PathLike[str], card: str, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write `config.json`, `calibration.json`, `model.safetensors` (only what was trained) and `README.md`.

        Args:
            folder: replaced as a whole, once everything is written.
            card: text of the model card.
            dtype: of the stored weights; the codebook stays float32.
        """
        tensors = {name: value.to(dtype) for name, value in self.own_state().items()}
        with atomic_folder(folder) as temporary:
            write_json(temporary / "config.json", {"format": FORMAT, **asdict(self.config)})
            self.calibration.save(temporary / "calibration.json")
            write_tensors(temporary / "model.safetensors", {**tensors, "codebook": self.codebook})
            (temporary / "README.md").write_text(card, encoding="utf-8")

    @staticmethod
    def from_pretrained(
        folder: str | os.PathLike[str],
        *,
        base: DecoderBase | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "DistributionDecoder":
        """Load a decoder's folder, strictly.

        Args:
            folder: as `save_pretrained` wrote it.
            base: the base, where it is already loaded; else it is loaded from where the config says. It is shared
                if the decoder trained its adapter only; else its transformer is copied and the base stays as it is.
            device: where to.
            dtype: of the weights.

        Raises:
            SoftDecodeError: missing or damaged files, or weights that do not fit.
        """
        folder = Path(folder)
        config = read_config(folder)
        calibration = Calibration.load(folder / "calibration.json")
        tensors, _ = read_tensors(folder / "model.safetensors")
        if "codebook" not in tensors:
            raise SoftDecodeError(f"{folder / 'model.safetensors'} holds no codebook; it is not a decoder's")
        codebook = tensors.pop("codebook")
        if base is None:
            base = load_base(base_location(folder, config), revision=config.base_revision, dtype=dtype)
        elif config.trained != "adapter":
            base = base.with_own_transformer()
        decoder = DistributionDecoder(config, base, codebook, calibration).to(dtype)
        load_strictly(decoder.own_state(), tensors, str(folder / "model.safetensors"))
        return decoder.to(device).eval().requires_grad_(False)

    def own_state(self) -> dict[str, Tensor]:
        """What is stored with the decoder, by the names in its file: the condition encoder and what else is trained."""
        state = {f"condition.{name}": value for name, value in self.condition.state_dict().items()}
        for name, value in self.base.transformer.state_dict().items():
            if is_trained(name, self.config.trained):
                state[f"transformer.{plain_name(name)}"] = value
        return state


def weights_sha256(decoder: DistributionDecoder) -> str:
    """A hash of what makes it this decoder: its own weights, and those of a transformer that it was trained beside."""
    state = decoder.own_state()
    if decoder.config.trained == "adapter":
        state |= {f"transformer.{name}": value for name, value in decoder.base.transformer.state_dict().items()}
    return state_sha256(state)


def same_codebook(first: Tensor, second: Tensor) -> bool:
    """Whether two codebooks [V, d] are one, up to the rounding of half precision."""
    if first.shape != second.shape:
        return False
    difference = first.to(second.device, torch.float32) - second.float()
    return bool(difference.abs().max() <= _CODEBOOK_TOLERANCE)  # NaN is not the same
