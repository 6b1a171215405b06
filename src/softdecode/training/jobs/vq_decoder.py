"""The job that trains a tokenizer's VQ decoder further, encoder and codebook frozen."""

from dataclasses import dataclass
from pathlib import Path

from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.files import atomic_folder
from softdecode.loading import load_pretrained, save_quietly
from softdecode.training.jobs.pictures import PictureJob
from softdecode.training.vq_decoder import VqDecoderTask


@dataclass(frozen=True, kw_only=True)
class VqDecoderJob(PictureJob):
    """Train a tokenizer's VQ decoder further, encoder and codebook frozen: the fair baseline of soft decoders."""

    tokenizer: Path
    """Folder of the trained tokenizer."""

    def run(self) -> None:
        data = self.pictures()
        model = load_pretrained(JanusVQVAE, self.tokenizer)
        task = VqDecoderTask(model, data.images, self.changes, self.shown_images())
        self.train(task, data.digest)
        if not self.processes.is_main_process:
            return
        with atomic_folder(self.output / "model") as folder:
            save_quietly(model.cpu(), folder)
