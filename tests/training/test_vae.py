"""Training of the VAE: the losses' formulas, their gradients in bf16, and the latents' scale."""

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.images import to_unit_range
from softdecode.latents import encode_images
from softdecode.training.config import LoopConfig
from softdecode.training.loop import train
from softdecode.training.vae import VaeConfig, VaeTask, build_vae, set_latent_scale

CONFIG = VaeConfig(channels=(8, 16), latent_channels=3, norm_groups=4, kl_weight=1e-3)


@pytest.fixture
def images(make_pictures):
    return make_pictures(6, 16)


@pytest.fixture
def task(images):
    torch.manual_seed(0)
    return VaeTask(build_vae(CONFIG, 16), images, CONFIG)


def test_the_layout_is_that_of_fluxs_vae(task, make_batch):
    assert task.model.quant_conv is None
    assert task.model.post_quant_conv is None
    assert (task.model.config["shift_factor"], task.model.config["scaling_factor"]) == (0.0, 1.0)
    assert make_batch(task)["noise"].shape == (6, 3, 8, 8)


@torch.no_grad()
def test_the_loss_is_the_formula(task, make_batch):
    batch = make_batch(task)
    found = task(batch, 0)
    moments = task.model.encoder(batch["images"])
    mean, log_variance = moments[:, :3], moments[:, 3:]
    deviation = (log_variance / 2).exp()
    error = task.model.decoder(mean + deviation * batch["noise"]) - batch["images"]
    divergence = 0.5 * (mean**2 + deviation**2 - 1 - log_variance).sum((1, 2, 3)).mean()
    torch.testing.assert_close(found["l1"], error.abs().mean())
    torch.testing.assert_close(found["mse"], error.square().mean())
    torch.testing.assert_close(found["kl"], divergence)
    torch.testing.assert_close(found["loss"], found["l1"] + found["mse"] + 1e-3 * divergence)


def test_a_batch_is_augmented_pictures_and_its_generator_decides_it(task, images, make_batch):
    first, same, other = make_batch(task), make_batch(task), make_batch(task, seed=1)
    assert torch.equal(first["images"], same["images"])
    assert torch.equal(first["noise"], same["noise"])
    assert not torch.equal(first["noise"], other["noise"])
    assert first["images"].min() >= -1
    assert first["images"].max() <= 1
    # Augmentation only moves pixels: those that stayed have the values of the originals.
    assert set(first["images"].unique().tolist()) <= set(to_unit_range(images).unique().tolist()) | {1.0}


def test_bf16_gradients_agree_with_float32(task, gradients, assert_gradients_agree, make_batch):
    batch = make_batch(task)
    assert_gradients_agree(gradients(task, batch, torch.bfloat16), gradients(task, batch, None))


def test_the_loss_falls(task, tmp_path, make_batch):
    config = LoopConfig(steps=25, batch_size=6, learning_rate=3e-3, warmup_steps=1, precision="fp32", ema_decay=0.5)
    batch = make_batch(task, seed=5)
    with torch.no_grad():
        before = task(batch, 0)["mse"].item()
    train(task, config, tmp_path, job={})
    with torch.no_grad():
        assert task(batch, 0)["mse"].item() < before / 3


def test_the_latents_get_mean_0_and_deviation_1(task, images):
    vae = task.model.eval()
    set_latent_scale(vae, images, batch_size=4)
    assert vae.config["shift_factor"] != 0.0
    assert vae.config["scaling_factor"] != 1.0
    with torch.no_grad():
        latents = encode_images(vae, to_unit_range(images))
    assert latents.mean().item() == pytest.approx(0, abs=1e-4)
    assert latents.std().item() == pytest.approx(1, rel=1e-4)


def test_the_latents_scale_is_stored_with_the_vae(task, images, tmp_path):
    set_latent_scale(task.model, images)
    task.model.save_pretrained(tmp_path)
    loaded = type(task.model).from_pretrained(tmp_path)
    for name in ("shift_factor", "scaling_factor"):
        assert loaded.config[name] == task.model.config[name]
    unit = to_unit_range(images)
    with torch.no_grad():
        assert torch.equal(encode_images(loaded, unit), encode_images(task.model, unit))


def test_a_preview_shows_pictures_and_what_becomes_of_them(task, tmp_path):
    config = LoopConfig(steps=2, batch_size=6, warmup_steps=1, precision="fp32", preview_every=1)
    train(task, config, tmp_path, job={})
    first, second = (np.asarray(Image.open(path)) for path in sorted((tmp_path / "previews").iterdir()))
    assert first.shape == second.shape
    assert first.shape[0] > 6 * 16, "a row for each picture"
    assert not np.array_equal(first, second), "what is shown is what has been learnt"


def test_a_preview_can_show_pictures_that_training_does_not_see(task, make_pictures):
    others = make_pictures(3, 16, seed=9)
    held_out = VaeTask(task.model, task.images, CONFIG, shown=others).eval()
    with torch.no_grad():
        found, expected = held_out.preview(0), VaeTask(task.model, others, CONFIG).eval().preview(0)
        assert found.tobytes() == expected.tobytes()
        assert found.size != task.eval().preview(0).size, "three pictures, not six"
