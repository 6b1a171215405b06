"""The whole way in one object: prompts → logits → calibrate → map → condition → denoise → images."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from softdecode.base import load_base
from softdecode.decoder import DistributionDecoder
from softdecode.default_decoder import default_decoder
from softdecode.device import resolve_device
from softdecode.encoded import encoded_distribution
from softdecode.errors import SoftDecodeError
from softdecode.images import from_pil, to_uint8
from softdecode.mapping import TokenDistribution
from softdecode.memory.offload import Offload, Phases, offload_blocks
from softdecode.memory.placement import Placement, as_module
from softdecode.memory.quantize import Quantization
from softdecode.models import DEFAULT_VLM, EMBEDDED
from softdecode.pipeline_output import OutputType, SoftDecodeOutput, check_output_type, make_output
from softdecode.vlm.base import ImageTokenModel, SamplingConfig

Progress = Callable[[Literal["vlm", "denoise"], int, int], None]


class SoftDecodePipeline(DiffusionPipeline):
    """Text to image with a VLM, decoded softly.

    Args:
        vlm: draws image tokens.
        decoder: turns their distribution into images; trained for this VLM's codebook.

    Raises:
        SoftDecodeError: VLM and decoder have different codebooks.
    """

    vlm: ImageTokenModel
    decoder: DistributionDecoder
    _phases: Phases | None = None  # where models are offloaded between them

    def __init__(self, vlm: ImageTokenModel, decoder: DistributionDecoder) -> None:
        super().__init__()
        decoder.check_codebook(vlm.tokenizer.codebook, vlm.name)
        self.register_modules(vlm=vlm, decoder=decoder)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        decoder: str | os.PathLike[str] | None = None,
        *,
        vlm: str | os.PathLike[str] | ImageTokenModel | None = None,
        base: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        offload: Offload = "none",
        quantize_vlm: Quantization = "none",
        quantize_base: Quantization = "none",
    ) -> "SoftDecodePipeline":
        """Load a VLM and a decoder for it.

        Args:
            decoder: a decoder's folder; where None, the embedded one if it is this VLM's, else an untrained one on
                `base`, with an `UntrainedDecoderWarning`.
            vlm: a VLM, or its folder or hub id; the embedded one where neither it nor a decoder is named.
            base: where the decoder's base is (see `load_base`), if not where its config says; for an untrained
                decoder the embedded base where None.
            device: auto (the default), cpu, mps, cuda or cuda:N.
            dtype: auto (the default), float32, bfloat16 or float16.
            offload: "none" keeps all on the device; "model" as `enable_model_cpu_offload`; "sequential" as
                `enable_sequential_cpu_offload`.
            quantize_vlm, quantize_base: "nf4" for 4-bit weights (see `quantize_nf4`) of a VLM loaded here, and of
                the decoder's transformer.

        Raises:
            SoftDecodeError: missing or damaged files, a decoder made for another codebook, or an unknown setting.
        """
        place = Placement.resolve(
            device, dtype, offload=offload, quantize_vlm=quantize_vlm, quantize_base=quantize_base
        )
        if vlm is None and decoder is not None and Path(decoder).resolve() not in _embedded_decoders():
            raise SoftDecodeError(f"name the VLM that the decoder {decoder} belongs to")
        if vlm is None or isinstance(vlm, str | os.PathLike):
            vlm = place.load_vlm(DEFAULT_VLM if vlm is None else vlm)
        at = place.loading(quantize_base)
        if decoder is None:
            loaded = default_decoder(vlm, base, **at)
        else:
            given = None if base is None else load_base(base, dtype=place.dtype)
            loaded = DistributionDecoder.from_pretrained(decoder, base=given, **at)
        place.quantized(loaded, loaded.base.transformer, quantize_base)
        pipe = cls(vlm, loaded)
        if offload == "model":
            pipe.enable_model_cpu_offload(device=place.device)
        elif offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=place.device)
        return pipe

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: str | torch.device | None = None) -> None:
        """Run in two phases: the VLM is on the device while it draws, the decoder while it decodes.

        Args:
            gpu_id: number of the CUDA device; `device` where None.
            device: where to compute; the best there is where None.
        """
        where = resolve_device(device if gpu_id is None else f"cuda:{gpu_id}")
        self._phases = Phases({"vlm": as_module(self.vlm), "decoder": self.decoder}, where)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: str | torch.device | None = None
    ) -> None:
        """Bring each layer of VLM and transformer to the device only while it computes: least memory, slowest.

        Args:
            gpu_id: number of the CUDA device; `device` where None.
            device: where to compute; the best there is where None.
        """
        where = resolve_device(device if gpu_id is None else f"cuda:{gpu_id}")
        self._phases = None
        for module in (as_module(self.vlm), self.decoder):
            offload_blocks(module, where)

    def enable_vae_tiling(self) -> None:
        """Decode large latents in overlapping tiles: less memory for pictures beyond the VAE's own size."""
        self.decoder.base.vae.enable_tiling()

    def _enter(self, phase: Literal["vlm", "decoder"]) -> None:
        """Where models are offloaded, bring this phase's to the device and the other's away."""
        if self._phases is not None:
            self._phases.enter(phase)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        return_vq: bool = False,
        output_type: OutputType = "pil",
        on_progress: Progress | None = None,
    ) -> SoftDecodeOutput:
        """Draw one image for each prompt.

        Args:
            prompt: one prompt or several.
            seed: of the first image, the others count on from it; or one for each.
            num_inference_steps: denoising steps, >= 1; the decoder's own number where None.
            guidance_scale, temperature, top_k, top_p: of the VLM, see `SamplingConfig`; its defaults where None.
            return_vq: decode the tokens with the VLM's VQ decoder, too.
            output_type: "pil" for RGB images, "pt" for uint8 tensors [B, 3, H, W].
            on_progress: called with (stage, done, total).

        Raises:
            SoftDecodeError: an empty prompt, a wrong number of seeds, or a setting out of range.
        """
        check_output_type(output_type)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = list(range(seed, seed + len(prompts))) if isinstance(seed, int) else list(seed)
        steps = self.decoder.config.steps if num_inference_steps is None else num_inference_steps
        if steps < 1:  # before the VLM's long work, not after it
            raise SoftDecodeError(f"denoising needs at least 1 step, got {steps}")
        distribution = self.sample(
            prompts,
            seeds=seeds,
            sampling=_override(
                self.vlm.defaults,
                guidance_scale=guidance_scale,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
            ),
            on_progress=on_progress,
        )
        vq_images = self.decode_vq(distribution) if return_vq or self.decoder.config.draft else None
        images = self.decode(
            distribution, seeds=seeds, vq_images=vq_images, num_inference_steps=steps, on_progress=on_progress
        )
        return make_output(images, vq_images if return_vq else None, distribution, output_type)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingConfig | None = None,
        on_progress: Progress | None = None,
    ) -> TokenDistribution:
        """The first phase: draw image tokens, with this decoder's calibration.

        Args:
            prompts: B prompts.
            seeds: B seeds.
            sampling: of the VLM; its defaults where None.
            on_progress: called with ("vlm", done, total).
        """
        self._enter("vlm")
        return self.vlm.sample(
            prompts,
            seeds=seeds,
            sampling=sampling,
            calibration=self.decoder.calibration,
            on_token=on_progress and (lambda done, total: on_progress("vlm", done, total)),
        )

    @torch.no_grad()
    def decode_vq(self, distribution: TokenDistribution) -> Tensor:
        """The fast path: the VLM's own VQ decoder on the chosen tokens, to uint8 images [B, 3, H, W]."""
        self._enter("vlm")
        return to_uint8(self.vlm.tokenizer.decode(distribution.tokens))

    @torch.no_grad()
    def decode(
        self,
        distribution: TokenDistribution,
        *,
        seeds: Sequence[int],
        vq_images: Tensor | None = None,
        num_inference_steps: int | None = None,
        on_progress: Progress | None = None,
    ) -> Tensor:
        """Decode distributions, sampled now or loaded from a file, to uint8 images [B, 3, H, W].

        Args:
            distribution: B images.
            seeds: B seeds of the decoder's noise.
            vq_images: what `decode_vq` makes of the distribution, where it is at hand; decoders that see it as a draft
                have it made otherwise.
            num_inference_steps: denoising steps; the decoder's own number where None.
            on_progress: called with ("denoise", done, total).
        """
        draft = None
        if self.decoder.config.draft:
            draft = self.decode_vq(distribution) if vq_images is None else vq_images
        self._enter("decoder")
        report = on_progress and (lambda done, total: on_progress("denoise", done, total))
        return to_uint8(
            self.decoder.denoise(distribution, seeds=seeds, draft=draft, steps=num_inference_steps, on_step=report)
        )

    @torch.no_grad()
    def encode(self, images: Tensor, prompts: Sequence[str] | None = None) -> TokenDistribution:
        """The distribution of images [B, 3, H, W] in [-1, 1], as in training; see `encoded_distribution`."""
        self._enter("vlm")
        tokenizer = self.vlm.tokenizer
        return encoded_distribution(tokenizer.features(images), tokenizer, self.decoder, vlm=self.vlm, prompts=prompts)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Sequence[Image.Image] | Tensor,
        *,
        prompts: Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        num_inference_steps: int | None = None,
        output_type: OutputType = "pil",
        on_progress: Progress | None = None,
    ) -> SoftDecodeOutput:
        """Encode images with the VLM's tokenizer and decode them again, softly and with the VQ decoder.

        Args:
            images: RGB images of the tokenizer's size, or a tensor [B, 3, H, W] in [-1, 1].
            prompts: what they show, for decoders that were trained on the VLM's own beliefs; others have no use for it.
        """
        check_output_type(output_type)
        batch = images if isinstance(images, Tensor) else torch.stack([from_pil(image) for image in images])
        seeds = list(range(seed, seed + len(batch))) if isinstance(seed, int) else list(seed)
        distribution = self.encode(batch, prompts)
        vq_images = self.decode_vq(distribution)
        decoded = self.decode(
            distribution,
            seeds=seeds,
            vq_images=vq_images,
            num_inference_steps=num_inference_steps,
            on_progress=on_progress,
        )
        return make_output(decoded, vq_images, distribution, output_type)


def _override(defaults: SamplingConfig, **given: float | None) -> SamplingConfig:
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _embedded_decoders() -> set[Path]:
    return {path.resolve() for path in (EMBEDDED / "decoders").iterdir()}
