"""Bases of a decoder: pretrained diffusion transformers with their latent VAE, run without any text."""

from softdecode.base.base import DecoderBase as DecoderBase
from softdecode.base.flux import FluxBase as FluxBase
from softdecode.base.load import load_base as load_base
from softdecode.base.sd3 import Sd3Base as Sd3Base
