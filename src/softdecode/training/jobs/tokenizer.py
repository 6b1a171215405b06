"""The job that trains the VQ tokenizer."""

from dataclasses import dataclass, field

import torch
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.files import atomic_folder, load_strictly
from softdecode.loading import load_pretrained, save_quietly
from softdecode.training.jobs.pictures import PictureJob
from softdecode.training.tokenizer import TokenizerConfig, TokenizerTask, build_tokenizer, round_codes


@dataclass(frozen=True, kw_only=True)
class TokenizerJob(PictureJob):
    """Train the VQ tokenizer."""

    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Its size."""
    hidden_size: int = 256
    """Width of the language model that it will serve."""

    def run(self) -> None:
        data = self.pictures()
        torch.manual_seed(self.loop.seed)
        model = build_tokenizer(self.model, data.images.shape[-1], self.hidden_size)
        if self.initial is not None:
            trained = load_pretrained(JanusVQVAE, self.initial)
            load_strictly(model.state_dict(), trained.state_dict(), str(self.initial))
        task = TokenizerTask(model, data.images, self.model, self.changes, self.shown_images())
        self.train(task, data.digest)
        if not self.processes.is_main_process:
            return
        round_codes(model)
        with atomic_folder(self.output / "model") as folder:
            save_quietly(model.cpu(), folder)
