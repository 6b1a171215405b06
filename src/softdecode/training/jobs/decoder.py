"""The job that trains the decoders of one VLM, all its variants on one transformer."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn

from softdecode.base import DecoderBase
from softdecode.calibration import Calibration
from softdecode.conditioning import ConditioningMode
from softdecode.data.picture_sets import HeldPictures, PictureBatch
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import ConditionSource, DecoderConfig
from softdecode.device import resolve_device
from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_folder, load_strictly, tensor_sha256
from softdecode.loading import load_pretrained, save_quietly
from softdecode.training.decoder import DecoderTask, TransformerConfig, build_base
from softdecode.training.encoding import FeatureEncoder
from softdecode.training.jobs.features import cached_features, preview_features
from softdecode.training.jobs.pictures import PictureJob
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel
from softdecode.vlm.registry import load_vlm_or_tokenizer


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One decoder of those that are trained together."""

    mode: ConditioningMode
    """What it sees of a distribution."""
    source: ConditionSource = "proxy"
    """What stands for the VLM's logits."""
    calibrated: bool = True
    """Whether proxy logits are calibrated to the VLM; else they are raw cosines."""


VARIANTS: Mapping[str, Variant] = {
    "hard": Variant(mode="hard"),
    "soft-raw": Variant(mode="soft", calibrated=False),
    "joint-raw": Variant(mode="joint", calibrated=False),
    "soft": Variant(mode="soft"),
    "joint": Variant(mode="joint"),
    "soft-forced": Variant(mode="soft", source="teacher-forced"),
    "joint-forced": Variant(mode="joint", source="teacher-forced"),
}


@dataclass(frozen=True, kw_only=True)
class DecoderJob(PictureJob):
    """Train decoders together on one transformer, an equal share of every batch each."""

    variants: tuple[str, ...] = ("hard", "soft-raw", "soft", "joint")
    """Which: hard (tokens alone); soft or joint (expected codes and uncertainty, joint also the chosen code) of the
    encoder's calibrated proxy; soft-raw, joint-raw (uncalibrated); soft-forced, joint-forced (the VLM's own belief)."""
    vlm: Path
    """Folder of the VLM whose tokenizer encodes the pictures, or of a tokenizer alone."""
    vae: Path
    """Folder of the trained VAE."""
    calibration: Path
    """Calibration of the VLM, from `softdecode calibrate`."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Size of the transformer."""
    hidden_channels: int = 64
    """Width of the condition encoder."""
    views: int = 2
    """Augmented views of each picture whose features are computed once."""
    corruption: float = 0.0
    """Share of the tokens that are swapped for likely neighbours, as a VLM errs, in [0, 1]."""
    draft: bool = True
    """Whether the decoders also see the picture that the VQ decoder makes of the chosen tokens."""
    splice: float = 0.5
    """Share of the samples that are spliced of two pictures' features, in [0, 1]."""
    steps: int = 10
    """The decoders' default number of denoising steps."""

    def run(self) -> None:
        self._check()
        data = self.pictures()
        device = resolve_device(self.device)
        vlm, tokenizer = load_vlm_or_tokenizer(self.vlm, device=device)
        vae = load_pretrained(AutoencoderKL, self.vae)
        nn.Module.to(vae, device)  # diffusers annotates its own as taking no device
        encoder = self._encoder(vlm, tokenizer, vae)
        if encoder.vlm is not None and not any(data.captions):
            raise SoftDecodeError("teacher forcing needs captions, and none of the pictures has one; see docs/data.md")
        torch.manual_seed(self.loop.seed)
        decoders = self._decoders(tokenizer, vae)  # before the long work: it reads what may be missing
        if self.initial is not None:
            _start_from(decoders, self.initial)
        shown = preview_features(self.shown(), encoder)
        pictures = HeldPictures(PictureBatch(images=data.images, keys=data.keys, captions=data.captions))
        features = cached_features(
            self, self.data / "features", pictures, encoder, augmentation=self.changes, views=self.views
        )
        task = DecoderTask(decoders, features, splice=self.splice, shown=shown)
        self.train(task, data.digest)
        if self.processes.is_main_process:
            self._save(task.base, decoders)

    def _save(self, base: DecoderBase, decoders: Mapping[str, DistributionDecoder]) -> None:
        with atomic_folder(self.output / "model") as folder:
            save_quietly(base.cpu().transformer, folder / "base" / "transformer")
            shutil.copytree(self.vae, folder / "base" / "vae")
            for name, decoder in decoders.items():
                decoder.save_pretrained(folder / "decoders" / name, _card(name, decoder), dtype=torch.float32)

    def _check(self) -> None:
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown or len(set(self.variants)) != len(self.variants) or not self.variants:
            raise SoftDecodeError(
                f"--variants must name different ones of {', '.join(VARIANTS)}, got {' '.join(self.variants) or 'none'}"
            )
        if self.loop.batch_size % len(self.variants):
            raise SoftDecodeError(
                f"--loop.batch-size must be a multiple of {len(self.variants)}, as many pictures for each decoder, "
                f"got {self.loop.batch_size}"
            )
        if not 0 <= self.splice <= 1:
            raise SoftDecodeError(f"--splice is a share, in [0, 1], got {self.splice}")

    def _encoder(self, vlm: ImageTokenModel | None, tokenizer: ImageTokenizer, vae: AutoencoderKL) -> FeatureEncoder:
        forced = any(VARIANTS[name].source == "teacher-forced" for name in self.variants)
        if forced and vlm is None:
            raise SoftDecodeError(f"{self.vlm} is a tokenizer; the variants soft-forced and joint-forced need a VLM")
        return FeatureEncoder(
            tokenizer=tokenizer,
            vae=vae,
            vlm=vlm if forced else None,
            drafts=self.draft,
            corruption=self.corruption,
        )

    def _decoders(self, tokenizer: ImageTokenizer, vae: AutoencoderKL) -> dict[str, DistributionDecoder]:
        base = build_base(self.transformer, vae)
        codebook = tokenizer.codebook.cpu()
        digest = tensor_sha256(codebook)
        calibration = Calibration.load(self.calibration, digest)
        decoders = {}
        for name in self.variants:
            variant = VARIANTS[name]
            config = DecoderConfig(
                mode=variant.mode,
                code_dim=codebook.shape[-1],
                hidden_channels=self.hidden_channels,
                image_size=tokenizer.image_size,
                base="../../base",
                trained="adapter",
                codebook_sha256=digest,
                vlm=self.vlm.name,
                steps=self.steps,
                draft=self.draft,
                source=variant.source,
            )
            raw = Calibration(codebook_sha256=digest, target=calibration.target, reached=calibration.raw)
            plain = Calibration(codebook_sha256=digest)  # the VLM's own belief needs no calibration
            fitted = calibration if variant.calibrated else raw
            chosen = plain if variant.source == "teacher-forced" else fitted
            decoders[name] = DistributionDecoder(config, base, codebook, chosen)
        return decoders


def _start_from(decoders: Mapping[str, DistributionDecoder], initial: Path) -> None:
    """Copy transformer and condition encoders of earlier decoders, from a run's `model/` or a shipped stack.

    A variant that is not there starts with an untrained condition encoder.
    """
    trained = load_pretrained(FluxTransformer2DModel, initial / "base", subfolder="transformer")
    first = next(iter(decoders.values()))
    load_strictly(first.base.transformer.state_dict(), trained.state_dict(), str(initial / "base"))
    for name, decoder in decoders.items():
        if not (initial / "decoders" / name).is_dir():
            continue
        earlier = DistributionDecoder.from_pretrained(initial / "decoders" / name)
        own = decoder.condition.state_dict()
        if decoder.config.draft and not earlier.config.draft:
            del own["draft.weight"]  # zero as yet: the decoder goes on as it was, and learns to use the draft
        load_strictly(own, earlier.condition.state_dict(), str(initial / "decoders" / name))


def _card(name: str, decoder: DistributionDecoder) -> str:
    return (
        f"# softdecode decoder `{name}`\n\nMode {decoder.config.mode}, for the codebook of {decoder.config.vlm} "
        f"({decoder.config.codebook_sha256[:12]}). Calibration: kappa {decoder.calibration.kappa:.4g}, "
        f"epsilon {decoder.calibration.epsilon:.4g}.\n"
    )
