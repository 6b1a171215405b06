"""Seeds: each image's numbers depend on its own seed and on nothing else."""

import math

import torch

from softdecode.seeds import derive_seed, generator_for, image_noise

SHAPE = (2, 8, 8)


def test_an_images_noise_depends_on_its_own_seed_only():
    together = image_noise([5, 6, 7], SHAPE, "decoder")
    assert together.shape == (3, *SHAPE)
    assert together.dtype == torch.float32
    torch.manual_seed(123)  # the global generator has no say
    for place, seed in enumerate((5, 6, 7)):
        assert torch.equal(image_noise([seed], SHAPE, "decoder")[0], together[place])
    assert torch.equal(image_noise([7, 5, 6], SHAPE, "decoder"), together[[2, 0, 1]])


def test_equal_seeds_give_equal_images_and_others_differ():
    first, other, again = image_noise([1, 2, 1], SHAPE, "decoder")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_purpose_has_its_own_stream():
    decoder, vlm = (image_noise([1], (10_000,), purpose)[0] for purpose in ("decoder", "vlm"))
    assert abs(torch.corrcoef(torch.stack([decoder, vlm]))[0, 1]) < 0.05  # five standard errors


def test_noise_is_standard_normal_within_and_across_seeds():
    noise = image_noise(range(200), (200,), "decoder").double()
    error = 1 / math.sqrt(noise.numel())
    assert abs(noise.mean()) < 5 * error
    assert abs(noise.var() - 1) < 5 * math.sqrt(2) * error
    # Neighbouring seeds are not correlated: the mean over seeds has variance 1/200.
    assert abs(noise.mean(0).var() * 200 - 1) < 0.5


def test_derived_seeds_are_63_bit_and_fixed_forever():
    # From `printf decoder/0 | sha256sum`: first 8 bytes, halved. A change would change every picture.
    assert derive_seed("decoder", 0) == 0x74A21812B10B7347 >> 1
    seeds = {derive_seed(purpose, seed) for purpose in ("decoder", "vlm") for seed in range(-500, 500)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("a", "b") != derive_seed("b", "a")


def test_a_generator_is_seeded_by_its_parts_alone():
    assert generator_for("vlm", 3).initial_seed() == derive_seed("vlm", 3)
    assert torch.equal(
        torch.rand(4, generator=generator_for("vlm", 3)), torch.rand(4, generator=generator_for("vlm", 3))
    )
