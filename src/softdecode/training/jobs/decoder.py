"""The job that trains the decoders of one VLM, all its variants on one transformer."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

from softdecode.calibration import Calibration
from softdecode.conditioning import ConditioningMode
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import DecoderConfig
from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_folder, load_strictly, tensor_sha256
from softdecode.loading import load_pretrained, save_quietly
from softdecode.training.decoder import DecoderTask, TransformerConfig, build_base
from softdecode.training.features import encode
from softdecode.training.jobs.job import EmojiJob
from softdecode.vlm.janus import JanusModel


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One decoder of those that are trained together."""

    mode: ConditioningMode
    """What it sees of a distribution."""
    calibrated: bool
    """Whether its proxy logits are calibrated to the VLM; else they are raw cosines."""


VARIANTS: Mapping[str, Variant] = {
    "hard": Variant(mode="hard", calibrated=True),
    "soft-raw": Variant(mode="soft", calibrated=False),
    "soft": Variant(mode="soft", calibrated=True),
    "joint": Variant(mode="joint", calibrated=True),
}


@dataclass(frozen=True, kw_only=True)
class DecoderJob(EmojiJob):
    """Train decoders, hard, soft and joint, together on one transformer."""

    vlm: Path
    """Folder of the VLM, whose tokenizer encodes the pictures."""
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
    draft: bool = True
    """Whether the decoders also see the picture that the VQ decoder makes of the chosen tokens."""
    splice: float = 0.5
    """Share of the samples that are spliced of two pictures' features, in [0, 1]."""
    steps: int = 10
    """The decoders' default number of denoising steps."""

    def run(self) -> None:
        if self.loop.batch_size < len(VARIANTS):
            raise SoftDecodeError(
                f"--loop.batch-size must be at least {len(VARIANTS)}, a picture for each decoder, "
                f"got {self.loop.batch_size}"
            )
        if not 0 <= self.splice <= 1:
            raise SoftDecodeError(f"--splice is a share, in [0, 1], got {self.splice}")
        data = self.emoji()
        vlm = JanusModel.from_pretrained(self.vlm)
        vae = load_pretrained(AutoencoderKL, self.vae)
        cache = self.data.expanduser()
        features = encode(data.images, vlm.tokenizer, vae, views=self.views, seed=self.loop.seed, cache=cache)
        torch.manual_seed(self.loop.seed)
        decoders = self._decoders(vlm, vae)
        if self.initial is not None:
            _start_from(decoders, self.initial)
        task = DecoderTask(decoders, features, splice=self.splice)
        self.train(task, data)
        with atomic_folder(self.output / "model") as folder:
            save_quietly(task.base.cpu().transformer, folder / "base" / "transformer")
            shutil.copytree(self.vae, folder / "base" / "vae")
            for name, decoder in decoders.items():
                decoder.save_pretrained(folder / "decoders" / name, _card(name, decoder), dtype=torch.float32)

    def _decoders(self, vlm: JanusModel, vae: AutoencoderKL) -> dict[str, DistributionDecoder]:
        base = build_base(self.transformer, vae)
        codebook = vlm.tokenizer.codebook
        calibration = Calibration.load(self.calibration)
        digest = tensor_sha256(codebook)
        if calibration.codebook_sha256 != digest:
            raise SoftDecodeError(
                f"{self.calibration} was fitted for another codebook; run `softdecode calibrate` again"
            )
        decoders = {}
        for name, variant in VARIANTS.items():
            config = DecoderConfig(
                mode=variant.mode,
                code_dim=codebook.shape[-1],
                hidden_channels=self.hidden_channels,
                image_size=vlm.tokenizer.image_size,
                base="../../base",
                trained="adapter",
                codebook_sha256=digest,
                vlm=vlm.name,
                steps=self.steps,
                draft=self.draft,
            )
            raw = Calibration(codebook_sha256=digest, target=calibration.target, reached=calibration.raw)
            decoders[name] = DistributionDecoder(config, base, codebook, calibration if variant.calibrated else raw)
        return decoders


def _start_from(decoders: Mapping[str, DistributionDecoder], initial: Path) -> None:
    """Copy transformer and condition encoders of earlier decoders, from a run's `model/` or a shipped stack."""
    trained = load_pretrained(FluxTransformer2DModel, initial / "base", subfolder="transformer")
    first = next(iter(decoders.values()))
    load_strictly(first.base.transformer.state_dict(), trained.state_dict(), str(initial / "base"))
    for name, decoder in decoders.items():
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
