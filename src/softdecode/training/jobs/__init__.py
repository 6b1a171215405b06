"""The training jobs, each from data and earlier jobs' folders to a folder of its own."""

from softdecode.training.jobs.decoder import VARIANTS, DecoderJob, Variant
from softdecode.training.jobs.job import DEFAULT_DATA, EmojiJob, Job
from softdecode.training.jobs.pretrained import PretrainedDecoderJob
from softdecode.training.jobs.tokenizer import TokenizerJob
from softdecode.training.jobs.vae import VaeJob
from softdecode.training.jobs.vlm import VlmJob
from softdecode.training.jobs.vq_decoder import VqDecoderJob

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
    "VqDecoderJob",
]
