"""The job that trains one decoder on a published transformer, for any VLM that softdecode knows (spec section 3)."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from softdecode.base import DecoderBase, load_base
from softdecode.calibration import Calibration
from softdecode.conditioning import ConditioningMode
from softdecode.data.picture_sets import SourcePictures
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import ConditionSource, DecoderConfig, TrainedPart, check_lora, read_config
from softdecode.device import resolve_device
from softdecode.errors import SoftDecodeError
from softdecode.files import load_strictly, read_tensors, tensor_sha256
from softdecode.trained import train_only, trained_parameters
from softdecode.training.augment import Augmentation
from softdecode.training.decoder import DecoderTask
from softdecode.training.encoding import FeatureEncoder
from softdecode.training.features import FeatureRows
from softdecode.training.jobs.features import cached_features, live_features, preview_features
from softdecode.training.jobs.sources import SourceJob
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel
from softdecode.vlm.registry import load_vlm

DEFAULT_CACHE = Path("~/.cache/softdecode/features")


@dataclass(frozen=True, kw_only=True)
class PretrainedDecoderJob(SourceJob):
    """Train one decoder on a published diffusion transformer.

    Frozen weights are kept in the forward pass's precision, trained ones in float32 (see `trained.train_only`).
    """

    vlm: str
    """Folder or hub id of the VLM whose tokenizer encodes the pictures."""
    vlm_revision: str | None = None
    """Revision of the VLM on the hub."""
    base: str
    """Folder, hub id or single file of the transformer and its VAE."""
    base_revision: str | None = None
    """Revision of the base on the hub."""
    images: str
    """The training pictures: a folder, .tar files by a brace pattern, hf:NAME or hf-stream:NAME (see docs/data.md)."""
    live: bool = False
    """Encode pictures in every step, as they come, rather than once; nothing is stored."""
    augmentation: Augmentation | None = None
    """none, or mirror (half of the pictures) of every view but the first, and of live pictures; mirror where absent."""
    corruption: float = 0.0
    """Share of the tokens that are swapped for likely neighbours, as a VLM errs, in [0, 1]."""
    source: ConditionSource = "proxy"
    """What stands for the VLM's logits: proxy is the VQ encoder's calibrated cosines (paper, section B.2);
    teacher-forced is the VLM's own belief about the pictures, given their captions."""
    calibration: Path | None = None
    """Calibration of the VLM, from `softdecode calibrate`; proxy conditions need one, hard mode none."""
    mode: ConditioningMode = "soft"
    """What the decoder sees of a distribution: hard, soft (the paper's) or joint."""
    trained: TrainedPart = "attention"
    """What is trained besides the condition encoder (adapter): attention (the paper's), lora, all, or nothing."""
    lora_rank: int | None = None
    """Rank of the LoRA updates, >= 1; for trained=lora alone."""
    lora_alpha: float | None = None
    """The LoRA updates are scaled by lora_alpha / lora_rank, > 0; for trained=lora alone."""
    hidden_channels: int = 256
    """Width of the condition encoder, a multiple of 8."""
    draft: bool = False
    """Whether the decoder also sees the picture that the VQ decoder makes of the chosen tokens."""
    views: int = 1
    """Augmented views of each picture whose features are computed once."""
    cache: Path = DEFAULT_CACHE
    """Folder of the encoded pictures."""
    steps: int = 30
    """The decoder's default number of denoising steps."""

    def run(self) -> None:
        self._check()
        processes = self.processes  # connected before any model is moved: only then is `cuda` each process's own
        device, dtype = resolve_device(self.device), self.frozen_dtype
        sharded = self.loop.parallel == "fsdp2" and processes.num_processes > 1
        vlm = load_vlm(self.vlm, revision=self.vlm_revision, dtype=dtype)
        self._calibration(vlm.tokenizer.codebook.float().cpu())  # before the long work, not after it
        base = load_base(self.base, revision=self.base_revision, dtype=dtype)
        # The device gets what encodes pictures and, if it is not to be shared out, the transformer.
        for part in (vlm if self.source == "teacher-forced" else vlm.tokenizer, base.vae if sharded else base):
            cast(nn.Module, part).to(device)
        encoder = self._encoder(vlm, base)
        shown = preview_features(self.preview_pictures(vlm.tokenizer.image_size), encoder)
        features, digest = self._features(encoder)
        torch.manual_seed(self.loop.seed)
        decoder = self.decoder(base, vlm.tokenizer, vlm.name)
        del vlm, encoder  # training needs the codebook alone
        task = DecoderTask({self.mode: decoder}, features, shown=shown)
        self.train(task, digest)
        if not processes.is_main_process:
            return
        # Small parts are kept as they were trained, large ones in the precision that they are used in.
        small = self.trained in ("adapter", "lora")
        decoder.save_pretrained(self.output / "model", self._card(decoder), torch.float32 if small else dtype)

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Of the weights that are not trained."""
        return torch.bfloat16 if self.loop.precision == "bf16" else torch.float32

    def _encoder(self, vlm: ImageTokenModel, base: DecoderBase) -> FeatureEncoder:
        forced = vlm if self.source == "teacher-forced" else None
        return FeatureEncoder(
            tokenizer=vlm.tokenizer, vae=base.vae, vlm=forced, drafts=self.draft, corruption=self.corruption
        )

    def _features(self, encoder: FeatureEncoder) -> tuple[FeatureRows, str]:
        """What training reads instead of pictures, and the identity of the pictures."""
        source, corrupt = self.open_source(self.images, encoder.tokenizer.image_size)
        if encoder.vlm is not None and not source.has_captions():
            raise SoftDecodeError(
                f"teacher forcing needs captions, and the first pictures of {self.images} have none; see docs/data.md"
            )
        augmentation = self.augmentation or "mirror"
        with self.processes.main_process_first():  # it digests the files, the others read the digests
            identity = source.identity
        if self.live:
            return live_features(self, source, corrupt, encoder, augmentation), identity
        if not hasattr(source, "__len__") and self.processes.num_processes > 1:
            raise SoftDecodeError(
                f"{self.images} can only be read from its start, by every process: use --live, or hf: in place of it"
            )
        pictures = SourcePictures(source, corrupt, self.limit)
        cache = cached_features(self, self.cache, pictures, encoder, augmentation=augmentation, views=self.views)
        return cache, pictures.digest

    def decoder(self, base: DecoderBase, tokenizer: ImageTokenizer, vlm: str) -> DistributionDecoder:
        """The decoder where training starts, frozen but for what is trained.

        Args:
            base: of which it takes possession; the condition encoder is made beside it, on the CPU.
            tokenizer: the VLM's.
            vlm: the VLM's name.
        """
        codebook = tokenizer.codebook.float().cpu()
        local = Path(self.base).exists()
        config = DecoderConfig(
            mode=self.mode,
            code_dim=codebook.shape[-1],
            hidden_channels=self.hidden_channels,
            image_size=tokenizer.image_size,
            base=str(Path(self.base).resolve()) if local else self.base,
            base_revision=None if local else self.base_revision,
            trained=self.trained,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            codebook_sha256=tensor_sha256(codebook),
            vlm=vlm,
            steps=self.steps,
            draft=self.draft,
            source=self.source,
        )
        decoder = DistributionDecoder(config, base, codebook, self._calibration(codebook))
        if self.initial is not None:
            _start_from(decoder, self.initial)
        train_only(decoder)
        return decoder

    def _calibration(self, codebook: Tensor) -> Calibration:
        digest = tensor_sha256(codebook)
        # The VLM's own belief has no use for one; with the tokens alone only baselines in evaluations have.
        spared = self.mode == "hard" and self.calibration is not None and not self.calibration.exists()
        if self.calibration is None or spared or self.source == "teacher-forced":
            return Calibration(codebook_sha256=digest)
        return Calibration.load(self.calibration, digest)

    def _check(self) -> None:
        """Refuse what cannot be trained, before anything is loaded."""
        if self.trained == "none":
            raise SoftDecodeError("--trained none trains nothing; choose adapter, attention, lora or all")
        check_lora(self.trained, self.lora_rank, self.lora_alpha)
        if self.calibration is None and self.mode != "hard" and self.source == "proxy":
            raise SoftDecodeError(
                "proxy conditions need --calibration; run `softdecode calibrate` for this VLM, or train --mode hard"
            )
        if self.hidden_channels < 8 or self.hidden_channels % 8:
            raise SoftDecodeError(f"--hidden-channels must be a multiple of 8, got {self.hidden_channels}")
        if self.live and (self.limit is not None or self.views != 1):
            raise SoftDecodeError(
                "--live streams all pictures, and augments them anew each time; it has no use for --limit and --views"
            )
        if self.augmentation not in (None, "none") and self.views == 1 and not self.live:
            raise SoftDecodeError("the first view is the picture itself; --augmentation needs --views 2 or --live")
        if self.corruption and self.mode == "soft" and self.source == "proxy" and not self.draft:
            raise SoftDecodeError(
                "a soft decoder does not see the proxy's chosen tokens, which --corruption swaps: use --mode joint, "
                "--draft or --source teacher-forced, or leave it out"
            )
        if self.initial is not None:
            read_config(self.initial)
        if self.views < 1:
            raise SoftDecodeError(f"--views must be at least 1, got {self.views}")

    def _card(self, decoder: DistributionDecoder) -> str:
        config, count = decoder.config, sum(weight.numel() for weight in trained_parameters(decoder).values())
        calibration = decoder.calibration
        return (
            f"# softdecode decoder for {config.vlm}\n\n"
            f"Mode {config.mode}, on the base `{config.base}` (revision {config.base_revision or 'not pinned'}), of "
            f"which this holds what was trained: {config.trained}, {count:,} parameters. The base's licence applies to "
            f"what is derived from it. Codebook {config.codebook_sha256[:12]}. Calibration: kappa "
            f"{calibration.kappa:.4g}, epsilon {calibration.epsilon:.4g}.\n\n"
            f"{self.loop.steps:,} steps of {self.loop.batch_size} pictures, learning rate {self.loop.learning_rate:g}, "
            f"seed {self.loop.seed}.\n"
        )


def _start_from(decoder: DistributionDecoder, folder: Path) -> None:
    """Copy an earlier decoder's weights; what fixes their shapes and their meaning must be the same."""
    earlier = read_config(folder)
    fixed = ("mode", "trained", "code_dim", "hidden_channels", "image_size", "lora_rank", "lora_alpha", "draft")
    wrong = [name for name in fixed if getattr(earlier, name) != getattr(decoder.config, name)]
    if wrong:
        raise SoftDecodeError(
            f"{folder} cannot be trained further with these settings; they differ in {', '.join(wrong)}"
        )
    path = folder / "model.safetensors"
    tensors, _ = read_tensors(path)
    if not decoder.fits_codebook(tensors.pop("codebook", torch.empty(0))):
        raise SoftDecodeError(
            f"{folder} was trained for the codebook of {earlier.vlm}, not for that of {decoder.config.vlm}"
        )
    load_strictly(decoder.own_state(), tensors, str(path))
