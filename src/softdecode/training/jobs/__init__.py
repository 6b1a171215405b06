"""The training jobs: four for the embedded stack, each from data and earlier folders, and one for published models."""

from softdecode.training.jobs.decoder import VARIANTS, DecoderJob, Variant
from softdecode.training.jobs.job import DEFAULT_DATA, EmojiJob, Job
from softdecode.training.jobs.pretrained import PretrainedDecoderJob
from softdecode.training.jobs.tokenizer import TokenizerJob
from softdecode.training.jobs.vae import VaeJob
from softdecode.training.jobs.vlm import VlmJob

__all__ = [
    "DEFAULT_DATA",
    "VARIANTS",
    "DecoderJob",
    "EmojiJob",
    "Job",
    "PretrainedDecoderJob",
    "TokenizerJob",
    "VaeJob",
    "Variant",
    "VlmJob",
]
