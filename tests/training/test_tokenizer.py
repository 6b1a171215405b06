"""Training of the VQ tokenizer: straight-through gradients, codes that follow their features, revival, rounding."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.models.janus.modeling_janus import JanusVQVAE

from softdecode.loading import load_pretrained
from softdecode.training.config import LoopConfig
from softdecode.training.loop import train
from softdecode.training.tokenizer import TokenizerConfig, TokenizerTask, build_tokenizer, round_codes
from softdecode.vlm.base import nearest_tokens
from softdecode.vlm.janus_tokenizer import JanusTokenizer

CONFIG = TokenizerConfig(
    codes=16,
    code_dim=4,
    base_channels=64,
    channel_multiplier=(1, 1, 1),
    continuous_steps=4,
    code_decay=0.8,
    revive_every=5,
)
QUANTISED = 100  # a step at which it quantises


@pytest.fixture
def images(make_pictures):
    return make_pictures(6, 16)


@pytest.fixture
def task(images):
    torch.manual_seed(0)
    return TokenizerTask(build_tokenizer(CONFIG, 16, 32), images, CONFIG)


@pytest.fixture
def codes(task):
    return task.model.quantize.embedding.weight


def unit_features(count, seed=0):
    """[1, 1, count, d] of length 1."""
    features = torch.randn(1, 1, count, CONFIG.code_dim, generator=torch.Generator().manual_seed(seed))
    return F.normalize(features, dim=-1)


def test_sizes_are_those_asked_for(task):
    tokenizer = JanusTokenizer(task.model)
    assert tokenizer.grid == (4, 4)
    assert tokenizer.image_size == (16, 16)
    assert tokenizer.codebook.shape == (16, 4)
    assert task.model.config.projection_dim == task.model.config.image_token_embed_dim == 32


# --- quantisation -------------------------------------------------------------------------------------------------


def test_features_are_replaced_by_their_nearest_codes(task, codes):
    features = unit_features(30)
    quantised, commitment, perplexity = task._quantise(features, QUANTISED)
    similarities = features[0, 0].double().numpy() @ codes.double().numpy().T
    nearest = similarities.argmax(-1)
    torch.testing.assert_close(quantised[0, 0], codes[nearest])
    # Of unit vectors, the squared distance is 2 - 2·cosine.
    assert commitment.item() == pytest.approx((2 - 2 * similarities.max(-1)).mean(), rel=1e-5)
    usage = np.bincount(nearest, minlength=16) / 30
    assert perplexity.item() == pytest.approx(math.exp(-sum(p * math.log(p) for p in usage if p)), rel=1e-5)


def test_the_gradient_passes_straight_through(task):
    features = unit_features(30).requires_grad_()
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    quantised, _, _ = task._quantise(features, QUANTISED)
    (quantised * weights).sum().backward()
    assert torch.equal(features.grad, weights)


def test_the_commitment_pulls_features_to_their_codes(task, codes):
    features = unit_features(30).requires_grad_()
    quantised, commitment, _ = task._quantise(features, QUANTISED)
    commitment.backward()
    torch.testing.assert_close(features.grad, 2 * (features - quantised).detach() / 30)
    assert codes.grad is None


def test_the_first_steps_are_continuous(task):
    features = unit_features(30)
    for step in (0, CONFIG.continuous_steps - 1):
        kept, commitment, _ = task._quantise(features, step)
        assert torch.equal(kept, features)
        assert commitment.item() == 0
    quantised, commitment, _ = task._quantise(features, CONFIG.continuous_steps)
    assert not torch.allclose(quantised, features, atol=0.1)
    assert commitment.item() > 0


@pytest.mark.parametrize("step", [0, QUANTISED])
def test_every_trained_weight_gets_a_gradient(task, gradients, step, make_batch):
    found = gradients(task, make_batch(task), None, step)
    trained = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert "model.quantize.embedding.weight" not in trained, "codes are moved by averages"
    assert found.keys() == trained
    encoder = [gradient.norm() for name, gradient in found.items() if name.startswith("model.encoder")]
    assert len(encoder) > 10
    largest = max(gradient.norm() for gradient in found.values())
    # A bias before a normalisation has no effect; every kernel has one.
    kernels = [name for name in found if found[name].ndim >= 2 and "attn" not in name]
    assert all(found[name].norm() > 1e-5 * largest for name in kernels)


@torch.no_grad()
def test_the_loss_is_the_formula(task, make_batch):
    task.eval()  # the codes stay
    batch = make_batch(task)
    found = task(batch, QUANTISED)
    tokenizer = JanusTokenizer(task.model)
    tokens = nearest_tokens(tokenizer.features(batch["images"]), tokenizer.codebook)
    # The picture that the loss is taken of is the one that the trained model will decode from its tokens.
    error = task.model.decode(tokens.flatten(1)) - batch["images"]
    torch.testing.assert_close(found["l1"], error.abs().mean())
    torch.testing.assert_close(found["mse"], error.square().mean())
    expected = found["l1"] + found["mse"] + CONFIG.commitment * found["commitment"]
    torch.testing.assert_close(found["loss"], expected + CONFIG.locality * found["context_shift"])
    assert found["commitment"] > 0
    assert found["context_shift"] > 0


@torch.no_grad()
def test_the_context_shift_is_how_features_change_when_a_patch_is_in_another_picture(task, make_batch):
    batch = make_batch(task)
    images, pasted = batch["images"], batch["pasted"]
    assert pasted.shape == (6, 4, 4)
    assert pasted.dtype == torch.bool
    mixed = images.clone()
    for picture, row, column in itertools.product(range(6), range(4), range(4)):
        if not pasted[picture, row, column]:
            place = (slice(None), slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
            mixed[picture][place] = images[picture - 1][place]
    tokenizer = JanusTokenizer(task.model)
    usual, changed = (F.normalize(tokenizer.features(part), dim=-1) for part in (images, mixed))
    distances = [
        (changed[picture, row, column] - usual[picture - (not pasted[picture, row, column]), row, column])
        .square()
        .sum()
        for picture, row, column in itertools.product(range(6), range(4), range(4))
    ]
    torch.testing.assert_close(task(batch, QUANTISED)["context_shift"], torch.stack(distances).mean())


@torch.no_grad()
def test_an_encoder_that_sees_single_patches_has_no_context_shift(task, make_batch):
    patches = torch.nn.Conv2d(3, task.model.quant_conv.in_channels, 4, stride=4)
    task.model.encoder.forward = lambda images: patches(images)
    assert task(make_batch(task), QUANTISED)["context_shift"].item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("step", [0, QUANTISED])
def test_bf16_gradients_agree_with_float32(images, gradients, assert_gradients_agree, step, make_batch):
    # Codes so many that the nearest one hardly moves the feature: a token that flips in bf16 is no other picture.
    config = TokenizerConfig(codes=4000, code_dim=3, base_channels=128, channel_multiplier=(1, 1), continuous_steps=4)
    torch.manual_seed(0)
    task = TokenizerTask(build_tokenizer(config, 16, 32), images, config).eval()
    batch = make_batch(task)
    found = gradients(task, batch, torch.bfloat16, step)
    # Biases and scales of few numbers before a normalisation are noisy.
    assert_gradients_agree(found, gradients(task, batch, None, step), each=0.95)


# --- the codes' moving averages -----------------------------------------------------------------------------------


def test_codes_follow_the_averages_of_their_features(task, codes):
    before, sums, counts = codes.clone(), torch.zeros(16, 4), torch.zeros(16)
    features = unit_features(30)
    for feature in features[0, 0]:
        place = (before @ feature).argmax()
        sums[place] += feature
        counts[place] += 1
    task.train()
    task._quantise(features, QUANTISED)
    task.after_step(QUANTISED, torch.Generator())
    torch.testing.assert_close(task.code_sums, 0.8 * before + 0.2 * sums)
    torch.testing.assert_close(task.code_counts, 0.8 + 0.2 * counts)
    torch.testing.assert_close(codes.data, F.normalize(0.8 * before + 0.2 * sums, dim=-1))


def test_codes_stay_when_it_is_not_training(task, codes):
    before = codes.clone()
    task.eval()
    task._quantise(unit_features(30), QUANTISED)
    task.after_step(QUANTISED, torch.Generator())
    torch.testing.assert_close(codes.data, before)


def test_dead_codes_are_put_on_recent_features(task, codes):
    task.train()
    recent = unit_features(16, seed=3)
    task._quantise(recent, QUANTISED)
    task.code_counts[:] = 1.0
    task.code_counts[[2, 7]] = 0.001
    kept = task.code_sums.clone()
    step = 4 * CONFIG.revive_every - 1
    task.after_step(step, torch.Generator().manual_seed(0))
    alive = [place for place in range(16) if place not in (2, 7)]
    torch.testing.assert_close(codes.data[alive], F.normalize(kept[alive], dim=-1))
    for dead in (2, 7):
        nearest = (recent[0, 0] @ codes[dead]).max()
        assert nearest.item() == pytest.approx(1, abs=1e-5), "it lies on one of the features"
        assert task.code_counts[dead] > 0.5, "it counts as alive until it has had its chance"


def test_between_revivals_dead_codes_stay(task, codes):
    task.code_counts[[2, 7]] = 0.001
    before = codes.clone()
    task.after_step(4 * CONFIG.revive_every, torch.Generator().manual_seed(0))
    torch.testing.assert_close(codes.data, before)


def test_all_codes_are_drawn_from_the_features_when_quantisation_starts(task, codes):
    task.train()
    recent = unit_features(16, seed=3)
    task._quantise(recent, 0)
    task.after_step(CONFIG.continuous_steps - 1, torch.Generator().manual_seed(0))
    nearest = (codes.data @ recent[0, 0].T).amax(-1)
    torch.testing.assert_close(nearest, torch.ones(16))


def test_recent_features_are_the_latest(task):
    task.train()
    for seed in range(3):
        task._quantise(unit_features(6, seed=seed), 0)
    expected = torch.cat([unit_features(6, seed=seed)[0, 0] for seed in (2, 1, 0)])[:16]
    assert torch.equal(task.recent_features, expected)
    task._quantise(unit_features(40, seed=9), 0)
    assert torch.equal(task.recent_features, unit_features(40, seed=9)[0, 0, :16])


# --- whole runs ---------------------------------------------------------------------------------------------------


def test_the_loss_falls_codes_stay_on_the_sphere_and_come_into_use(task, codes, tmp_path, images, make_batch):
    config = LoopConfig(steps=40, batch_size=6, learning_rate=2e-3, warmup_steps=1, precision="fp32", ema_decay=0.5)
    batch = make_batch(task, seed=5)
    with torch.no_grad():
        before = task.eval()(batch, QUANTISED)
    train(task, config, tmp_path, job={})
    with torch.no_grad():
        after = task.eval()(batch, QUANTISED)
    assert after["mse"] < before["mse"] / 3
    assert after["perplexity"] > 4
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(16))


def test_a_resumed_run_has_the_same_codes(images, tmp_path):
    """The codes' averages are part of the state."""

    def fresh():
        torch.manual_seed(0)
        return TokenizerTask(build_tokenizer(CONFIG, 16, 32), images, CONFIG)

    def run(folder, steps, resume=False):
        loop = LoopConfig(steps=steps, batch_size=3, warmup_steps=1, decay_fraction=0.0, precision="fp32")
        task = fresh()
        train(task, loop, tmp_path / folder, job={}, resume=resume)
        return task.state_dict()

    straight = run("straight", 8)
    run("pieces", 3)
    pieces = run("pieces", 8, resume=True)
    assert all(torch.equal(pieces[name], straight[name]) for name in straight)


# --- rounding -----------------------------------------------------------------------------------------------------


def loaded_codebooks(model, folder):
    model.save_pretrained(folder)
    return [
        JanusTokenizer(load_pretrained(JanusVQVAE, folder, dtype=dtype)).codebook
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ]


def test_a_rounded_codebook_is_the_same_in_every_dtype(task, codes, tmp_path):
    unrounded = loaded_codebooks(task.model, tmp_path / "unrounded")
    assert not torch.equal(unrounded[0], unrounded[1])
    before = codes.clone()
    round_codes(task.model)
    assert (codes - before).abs().max() <= 2**-8
    first, *others = loaded_codebooks(task.model, tmp_path / "rounded")
    assert all(torch.equal(first, other) for other in others)


def test_a_rounded_codebook_is_the_same_in_every_dtype_where_a_component_is_tiny(task, codes, tmp_path):
    codes.data[0] = torch.tensor([0.6, 0.8, 1.2345e-6, 0.0])
    round_codes(task.model)
    first, *others = loaded_codebooks(task.model, tmp_path)
    assert all(torch.equal(first, other) for other in others)


def test_a_preview_shows_pictures_and_what_becomes_of_them(task, tmp_path):
    config = LoopConfig(steps=2, batch_size=6, warmup_steps=1, precision="fp32", preview_every=1)
    train(task, config, tmp_path, job={})
    first, second = (np.asarray(Image.open(path)) for path in sorted((tmp_path / "previews").iterdir()))
    assert first.shape == second.shape
    assert first.shape[0] > 6 * 16, "a row for each picture"
    assert not np.array_equal(first, second), "what is shown is what has been learnt"
