"""The job that trains a tokenizer's VQ decoder further, encoder and codebook frozen."""

from dataclasses import dataclass
from pathlib import Path

from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.files import atomic_folder
from softdecode.loading import load_pretrained, save_quietly
from softdecode.training.augment import Augmentation
from softdecode.training.jobs.job import Job
from softdecode.training.vq_decoder import VqDecoderTask


@dataclass(frozen=True, kw_only=True)
class VqDecoderJob(Job):
    """Train a tokenizer's VQ decoder further, encoder and codebook frozen: the fair baseline of soft decoders."""

    tokenizer: Path
    """Folder of the trained tokenizer."""
    augmentation: Augmentation = "emoji"
    """Of the pictures: none, mirror (photographs) or emoji."""

    def run(self) -> None:
        data = self.emoji()
        model = load_pretrained(JanusVQVAE, self.tokenizer)
        self.train(VqDecoderTask(model, data.images, self.augmentation), data)
        with atomic_folder(self.output / "model") as folder:
            save_quietly(model.cpu(), folder)
