"""Ready settings of the training jobs, as functions, by name."""

from collections.abc import Callable

from softdecode.training.jobs import Job
from softdecode.training.presets import embedded, paper, photos, tiny
from softdecode.training.presets.runs import RUNS

PRESETS: dict[str, dict[str, Callable[[], Job]]] = {
    "embedded": {
        "tokenizer": embedded.embedded_tokenizer,
        "vae": embedded.embedded_vae,
        "vlm": embedded.embedded_vlm,
        "vq-decoder": embedded.embedded_vq_decoder,
        "decoder": embedded.embedded_decoder,
    },
    "tiny": {
        "tokenizer": tiny.tiny_tokenizer,
        "vae": tiny.tiny_vae,
        "vlm": tiny.tiny_vlm,
        "vq-decoder": tiny.tiny_vq_decoder,
        "decoder": tiny.tiny_decoder,
    },
    "photos-64": {
        "tokenizer": photos.photos_tokenizer,
        "vae": photos.photos_vae,
        "vq-decoder": photos.photos_vq_decoder,
        "decoder": photos.photos_decoder,
    },
    "janus-pro-flux-fill": {"decoder": paper.janus_pro_flux_fill},
    "janus-pro-flux-fill-lora": {"decoder": paper.janus_pro_flux_fill_lora},
}

__all__ = ["PRESETS", "RUNS"]
