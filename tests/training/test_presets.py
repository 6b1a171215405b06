import pytest

from softdecode.training.jobs import VARIANTS
from softdecode.training.presets import PRESETS


@pytest.mark.parametrize("preset", ["embedded", "tiny", "photos-64"])
def test_the_jobs_of_a_preset_fit_together(preset):
    jobs = {name: make() for name, make in PRESETS[preset].items()}
    tokenizer, vae, decoder = jobs["tokenizer"], jobs["vae"], jobs["decoder"]
    if "vlm" in jobs:
        assert jobs["vlm"].tokenizer == tokenizer.output / "model"
        assert tokenizer.hidden_size == jobs["vlm"].model.hidden_size
    assert decoder.vlm == jobs.get("vlm", tokenizer).output / "model"
    assert decoder.vae == vae.output / "model"
    assert jobs["vq-decoder"].tokenizer == tokenizer.output / "model"
    assert len({job.output for job in jobs.values()}) == len(jobs)
    assert len({job.images for name, job in jobs.items() if name != "vlm"}) == 1, "they see the same pictures"
    # One latent token for each VQ token: the condition needs no interpolation (spec section 3).
    assert 2 ** (len(tokenizer.model.channel_multiplier) - 1) == 2 * 2 ** (len(vae.model.channels) - 1)
    assert decoder.transformer.head_dim % 8 == 0
    assert decoder.hidden_channels % 8 == 0
    assert set(decoder.variants) <= set(VARIANTS)
    assert decoder.loop.batch_size % len(decoder.variants) == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_made_anew(preset):
    for make in PRESETS[preset].values():
        assert make() == make()
        assert make() is not make()


def test_the_papers_settings():
    """Section 4.1: attention and adapter, a global batch of 32, 50,000 steps, mixed precision, 30 denoising steps."""
    job = PRESETS["janus-pro-flux-fill"]["decoder"]()
    assert (job.trained, job.mode, job.steps) == ("attention", "soft", 30)
    assert (job.loop.batch_size, job.loop.steps, job.loop.precision) == (32, 50_000, "bf16")
    assert job.loop.optimizer == "adamw"
    lora = PRESETS["janus-pro-flux-fill-lora"]["decoder"]()
    assert (lora.trained, lora.lora_rank, lora.loop.learning_rate) == ("lora", 64, 1e-4)
    assert lora.output != job.output
    assert (lora.vlm, lora.base, lora.calibration) == (job.vlm, job.base, job.calibration)
