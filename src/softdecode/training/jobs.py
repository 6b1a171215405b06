"""The four training jobs of the embedded stack, each from data and earlier jobs' folders to a folder of its own."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor
from transformers import JanusForConditionalGeneration
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.calibration import Calibration
from softdecode.conditioning import ConditioningMode
from softdecode.data.emoji import EmojiData, load_emoji
from softdecode.decoder import DecoderConfig, DistributionDecoder
from softdecode.device import resolve_device
from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_folder, load_strictly, tensor_sha256, write_json
from softdecode.images import to_unit_range
from softdecode.loading import load_pretrained, save_quietly
from softdecode.training.config import LoopConfig
from softdecode.training.decoder import DecoderTask, TransformerConfig, build_base
from softdecode.training.features import encode
from softdecode.training.loop import Task, train
from softdecode.training.tokenizer import TokenizerConfig, TokenizerTask, build_tokenizer, round_codes
from softdecode.training.vae import VaeConfig, VaeTask, build_vae, set_latent_scale
from softdecode.training.vlm import VlmConfig, VlmTask, build_vlm, train_text_tokenizer
from softdecode.vlm.base import SamplingConfig, nearest_tokens
from softdecode.vlm.janus import SAMPLING_FILE, JanusModel, JanusTokenizer

DEFAULT_DATA = Path("~/.cache/softdecode/emoji")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every job is told."""

    output: Path
    """Folder of the run: `model/`, `checkpoint/`, `log.jsonl`, `run.json`."""
    loop: LoopConfig
    """How it is trained."""
    data: Path = DEFAULT_DATA
    """Folder of the emoji packages and the prepared pictures."""
    limit: int | None = None
    """Train on the first so many pictures only (for trying things out)."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""
    resume: bool = False
    """Go on from the checkpoint in the output folder."""
    initial: Path | None = None
    """Start from the trained `model/` of another run rather than from random weights; it must have the same sizes."""

    def __post_init__(self) -> None:
        resolve_device(self.device)  # before the long work, not after it
        if self.limit is not None and self.limit < 1:
            raise SoftDecodeError(f"--limit must be at least 1, got {self.limit}")

    def run(self) -> None:
        """Train, and write `model/` into the output folder."""
        raise NotImplementedError

    def emoji(self) -> EmojiData:
        data = load_emoji(self.data.expanduser()).split("train")
        if self.limit is None:
            return data
        return EmojiData(images=data.images[: self.limit], emoji=data.emoji[: self.limit], digest=data.digest)

    def train(self, task: Task, data: EmojiData) -> None:
        """Run the loop; the job's settings and the data's identity go into the run's record."""
        settings: dict[str, Any] = {"kind": type(self).__name__, **asdict(self)}
        settings |= {"data_sha256": data.digest, "samples": task.samples}
        self.output.mkdir(parents=True, exist_ok=True)
        train(task.to(resolve_device(self.device)), self.loop, self.output, job=_plain(settings), resume=self.resume)


@dataclass(frozen=True, kw_only=True)
class TokenizerJob(Job):
    """Train the VQ tokenizer."""

    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Its size."""
    hidden_size: int = 256
    """Width of the language model that it will serve."""

    def run(self) -> None:
        data = self.emoji()
        torch.manual_seed(self.loop.seed)
        model = build_tokenizer(self.model, data.images.shape[-1], self.hidden_size)
        if self.initial is not None:
            trained = load_pretrained(JanusVQVAE, self.initial)
            load_strictly(model.state_dict(), trained.state_dict(), str(self.initial))
        self.train(TokenizerTask(model, data.images, self.model), data)
        round_codes(model)
        with atomic_folder(self.output / "model") as folder:
            save_quietly(model.cpu(), folder)


@dataclass(frozen=True, kw_only=True)
class VaeJob(Job):
    """Train the latent VAE."""

    model: VaeConfig = field(default_factory=VaeConfig)
    """Its size."""

    def run(self) -> None:
        data = self.emoji()
        torch.manual_seed(self.loop.seed)
        model = build_vae(self.model, data.images.shape[-1])
        if self.initial is not None:
            trained = load_pretrained(AutoencoderKL, self.initial)
            load_strictly(model.state_dict(), trained.state_dict(), str(self.initial))
        self.train(VaeTask(model, data.images, self.model), data)
        set_latent_scale(model.cpu(), data.images[:: max(1, len(data) // 1024)])
        with atomic_folder(self.output / "model") as folder:
            save_quietly(model, folder)


@dataclass(frozen=True, kw_only=True)
class VlmJob(Job):
    """Train the small VLM on the tokenizer's tokens."""

    tokenizer: Path
    """Folder of the trained tokenizer."""
    model: VlmConfig = field(default_factory=VlmConfig)
    """Its size, and how captions are drawn."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """The model's default sampling settings, stored beside it."""

    def run(self) -> None:
        data = self.emoji()
        tokenizer = load_pretrained(JanusVQVAE, self.tokenizer)
        words = [text for emoji in data.emoji for text in (emoji.caption, *emoji.keywords)]
        torch.manual_seed(self.loop.seed)
        vlm = build_vlm(self.model, tokenizer, train_text_tokenizer(words, self.model.vocabulary))
        if self.initial is not None:
            trained = load_pretrained(JanusForConditionalGeneration, self.initial)
            language = {name: value for name, value in trained.state_dict().items() if ".vqmodel." not in name}
            own = {name: value for name, value in vlm.model.state_dict().items() if ".vqmodel." not in name}
            load_strictly(own, language, str(self.initial))
        tokens = encode_tokens(vlm.tokenizer, data.images)
        self.train(VlmTask(vlm, tokens.flatten(1), data.emoji, self.model), data)
        with atomic_folder(self.output / "model") as folder:
            save_quietly(vlm.cpu().model, folder)
            vlm.text_tokenizer.save_pretrained(folder)
            write_json(folder / SAMPLING_FILE, asdict(self.sampling))


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
class DecoderJob(Job):
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
    steps: int = 10
    """The decoders' default number of denoising steps."""

    def run(self) -> None:
        if self.loop.batch_size < len(VARIANTS):
            raise SoftDecodeError(
                f"--loop.batch-size must be at least {len(VARIANTS)}, a picture for each decoder, "
                f"got {self.loop.batch_size}"
            )
        data = self.emoji()
        vlm = JanusModel.from_pretrained(self.vlm)
        vae = load_pretrained(AutoencoderKL, self.vae)
        cache = self.data.expanduser()
        features = encode(data.images, vlm.tokenizer, vae, views=self.views, seed=self.loop.seed, cache=cache)
        torch.manual_seed(self.loop.seed)
        decoders = self._decoders(vlm, vae)
        if self.initial is not None:
            _start_from(decoders, self.initial)
        task = DecoderTask(decoders, features)
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
            )
            raw = Calibration(codebook_sha256=digest, target=calibration.target, reached=calibration.raw)
            decoders[name] = DistributionDecoder(config, base, codebook, calibration if variant.calibrated else raw)
        return decoders


@torch.no_grad()
def encode_tokens(tokenizer: JanusTokenizer, images: Tensor, batch_size: int = 64) -> Tensor:
    """Image tokens [M, h, w] int64 of pictures [M, 3, H, W] uint8."""
    parts = [tokenizer.features(to_unit_range(part)) for part in images.split(batch_size)]
    return torch.cat([nearest_tokens(part, tokenizer.codebook) for part in parts])


def _start_from(decoders: Mapping[str, DistributionDecoder], initial: Path) -> None:
    """Copy transformer and condition encoders of earlier decoders, from a run's `model/` or a shipped stack."""
    trained = load_pretrained(FluxTransformer2DModel, initial / "base", subfolder="transformer")
    first = next(iter(decoders.values()))
    load_strictly(first.base.transformer.state_dict(), trained.state_dict(), str(initial / "base"))
    for name, decoder in decoders.items():
        earlier = DistributionDecoder.from_pretrained(initial / "decoders" / name)
        load_strictly(decoder.condition.state_dict(), earlier.condition.state_dict(), str(initial / "decoders" / name))


def _card(name: str, decoder: DistributionDecoder) -> str:
    return (
        f"# softdecode decoder `{name}`\n\nMode {decoder.config.mode}, for the codebook of {decoder.config.vlm} "
        f"({decoder.config.codebook_sha256[:12]}). Calibration: kappa {decoder.calibration.kappa:.4g}, "
        f"epsilon {decoder.calibration.epsilon:.4g}.\n"
    )


def _plain(value: Any) -> Any:
    """Settings as JSON knows them: paths become strings."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value
