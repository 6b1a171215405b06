"""The job that trains the small VLM on a trained tokenizer's tokens."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.errors import SoftDecodeError
from softdecode.files import atomic_folder, load_strictly, write_json
from softdecode.images import to_unit_range
from softdecode.loading import load_pretrained, save_quietly
from softdecode.training.jobs.job import EmojiJob
from softdecode.training.vlm import VlmConfig, VlmTask, build_vlm, train_text_tokenizer
from softdecode.vlm.base import ImageTokenizer, SamplingConfig, nearest_tokens
from softdecode.vlm.janus import SAMPLING_FILE, JanusModel


@dataclass(frozen=True, kw_only=True)
class VlmJob(EmojiJob):
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
            earlier = JanusModel.from_pretrained(self.initial)
            if earlier.text_tokenizer.get_vocab() != vlm.text_tokenizer.get_vocab():
                raise SoftDecodeError(f"{self.initial} was trained on other captions: its text tokenizer differs")
            language = {name: value for name, value in earlier.model.state_dict().items() if ".vqmodel." not in name}
            own = {name: value for name, value in vlm.model.state_dict().items() if ".vqmodel." not in name}
            load_strictly(own, language, str(self.initial))
        tokens = encode_tokens(vlm.tokenizer, data.images)
        self.train(VlmTask(vlm, tokens.flatten(1), data.emoji, self.model), data.digest)
        if not self.processes.is_main_process:
            return
        with atomic_folder(self.output / "model") as folder:
            save_quietly(vlm.cpu().model, folder)
            vlm.text_tokenizer.save_pretrained(folder)
            write_json(folder / SAMPLING_FILE, asdict(self.sampling))


@torch.no_grad()
def encode_tokens(tokenizer: ImageTokenizer, images: Tensor, batch_size: int = 64) -> Tensor:
    """Image tokens [M, h, w] int64 of pictures [M, 3, H, W] uint8."""
    parts = [tokenizer.features(to_unit_range(part)) for part in images.split(batch_size)]
    return torch.cat([nearest_tokens(part, tokenizer.codebook) for part in parts])
