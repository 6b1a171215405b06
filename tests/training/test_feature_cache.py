"""The feature cache: read when nothing changed, and only then; exact, resumable, shared out among processes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from softdecode.data.picture_sets import HeldPictures, PictureBatch
from softdecode.errors import SoftDecodeError
from softdecode.images import to_uint8, to_unit_range
from softdecode.latents import encode_images
from softdecode.mapping import TokenDistribution
from softdecode.training import feature_cache
from softdecode.training.encoding import FeatureEncoder
from softdecode.training.feature_cache import build_cache
from softdecode.vlm.base import SamplingConfig, nearest_tokens


class CountingTokenizer(nn.Module):
    """A linear map of 4×4-pixel patches to features, that counts how many pictures it was shown.

    Its decoder paints each patch in its token's own grey.
    """

    def __init__(self, seed=0):
        super().__init__()
        codes = torch.randn(32, 5, generator=torch.Generator().manual_seed(9))
        self.codebook = codes / codes.norm(dim=-1, keepdim=True)
        self.patches = nn.Conv2d(3, 5, 4, stride=4).requires_grad_(False)
        self.patches.weight.copy_(torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed)))
        self.shown = 0

    def features(self, images):
        self.shown += len(images)
        return self.patches(images).permute(0, 2, 3, 1)

    def decode(self, tokens):
        grey = (tokens / 16 - 1)[:, None].expand(-1, 3, -1, -1)
        return grey.repeat_interleave(4, -1).repeat_interleave(4, -2)


class Believer(nn.Module):
    """A VLM whose belief is a number of the caption's length, guidance and weight."""

    defaults = SamplingConfig(guidance_scale=3.0)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.asked = Counter()

    def teacher_force(self, prompts, tokens, *, sampling=None, calibration=None):
        self.asked[prompts is None] += len(tokens)
        lengths = torch.tensor([len(p) for p in prompts] if prompts else [0] * len(tokens)).float()
        value = (lengths * self.weight.detach() + (sampling or self.defaults).guidance_scale)[:, None, None, None]
        return TokenDistribution(
            tokens=tokens, codes=value.expand(*tokens.shape, 5), uncertainty=torch.full((*tokens.shape, 4), 0.25)
        )


def some_pictures(seed=0, count=70, captions=None):
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return PictureBatch(
        images=images, keys=[f"p{i}" for i in range(count)], captions=captions or [f"a {'x' * i}" for i in range(count)]
    )


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_PICTURES", 32)


@pytest.fixture
def tokenizer():
    return CountingTokenizer()


@pytest.fixture
def build(tokenizer, make_vae, tmp_path):
    """`build_cache` with everything as it was, but for what is given."""
    usual = {
        "tokenizer": tokenizer,
        "vae": make_vae(),
        "vlm": None,
        "sampling": None,
        "drafts": True,
        "corruption": 0.0,
    }

    def call(pictures=None, root=tmp_path, **changes):
        encoder = FeatureEncoder(**{name: changes.pop(name, value) for name, value in usual.items()})
        settings = {"augmentation": "emoji", "views": 2, "seed": 3, **changes}
        return build_cache(root, HeldPictures(pictures or some_pictures()), encoder, **settings)

    return call


def everything(cache):
    return cache.rows(torch.arange(len(cache)), [])


def test_rows_are_views_of_the_pictures(build, tokenizer, make_vae):
    cache = build()
    found, images = everything(cache), some_pictures().images
    assert tokenizer.shown == len(cache) == 140
    assert cache.keys == [f"p{i}" for i in range(70)] * 2
    unit = to_unit_range(images)
    # The first view is the picture itself: the codes exactly, the latents up to bfloat16's arithmetic.
    torch.testing.assert_close(found.codes[:70], tokenizer.features(unit), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.tokens[:70].long(), nearest_tokens(found.codes[:70], tokenizer.codebook))
    torch.testing.assert_close(found.latents[:70].float(), encode_images(make_vae(), unit), rtol=0, atol=1e-1)
    pictures = to_uint8(tokenizer.decode(found.tokens.long()))
    drafts = encode_images(make_vae(), to_unit_range(pictures))
    torch.testing.assert_close(found.drafts.float(), drafts, rtol=0, atol=1e-1)
    # Of the second, those that no draw touched are the pictures, too: about a fifth.
    unchanged = torch.isclose(found.codes[70:], found.codes[:70]).flatten(1).all(1)
    assert 0.05 < unchanged.float().mean() < 0.5


def test_rows_come_in_the_order_asked_for(build):
    cache = build()
    whole, order = everything(cache), torch.tensor([139, 0, 69, 70, 32, 31, 0])
    picked = cache.rows(order, [])
    assert all(torch.equal(value, whole.named()[name][order]) for name, value in picked.named().items())


def test_a_second_call_reads_the_files(build, tokenizer):
    first = everything(build())
    shown = tokenizer.shown
    second = everything(build())
    assert tokenizer.shown == shown
    assert all(torch.equal(value, second.named()[name]) for name, value in first.named().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"views": 1},
        {"views": 3},
        {"augmentation": "mirror"},
        {"corruption": 0.1},
        {"drafts": False},
        {"pictures": some_pictures(seed=1)},
        {"pictures": some_pictures(captions=["other"] * 70)},
        {"pictures": some_pictures(count=69)},
        {"vlm": Believer()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_setting_reads_no_old_file(build, tokenizer, tmp_path, changes):
    build()
    shown = tokenizer.shown
    build(**changes)
    assert tokenizer.shown > shown
    assert len(list(tmp_path.iterdir())) == 2


def test_other_weights_read_no_old_file(build, tokenizer, make_vae, tmp_path):
    first = everything(build())
    tokenizer.patches.weight[0, 0, 0, 0] += 0.01
    shown = tokenizer.shown
    second = everything(build())
    assert tokenizer.shown == 2 * shown
    assert not torch.equal(first.codes, second.codes)
    third = everything(build(vae=make_vae(seed=1)))
    assert not torch.equal(second.latents, third.latents)
    vlm = Believer()
    fourth = everything(build(vlm=vlm))
    vlm.weight.data += 0.5
    assert not torch.equal(fourth.belief_codes, everything(build(vlm=vlm)).belief_codes)
    other = everything(build(vlm=vlm, sampling=SamplingConfig(guidance_scale=1.0)))
    assert other.belief_codes[0, 0, 0, 0] == 1 + 2  # the guidance, and a caption of two letters at weight 1
    assert len(list(tmp_path.iterdir())) == 6


def test_another_latent_scale_reads_no_old_file(build, make_vae):
    first = everything(build(vae=make_vae(scale=1.0)))
    second = everything(build(vae=make_vae(scale=2.0)))
    torch.testing.assert_close(second.latents.float(), 2 * first.latents.float(), rtol=1e-2, atol=1e-2)


def test_pictures_without_a_caption_get_the_unconditional_belief(build):
    vlm = Believer()
    captions = [None if place % 2 else "four" for place in range(70)]
    found = everything(build(some_pictures(captions=captions), vlm=vlm, views=1))
    assert vlm.asked == {True: 35, False: 35}
    assert (found.belief_codes[0::2] == 0.5 * 4 + 3).all()
    assert (found.belief_codes[1::2] == 3).all()
    assert (found.belief_uncertainty == 0.25).all()


def test_corruption_reaches_tokens_draft_and_belief_and_not_the_picture(build):
    plain, corrupted = everything(build(views=1)), everything(build(views=1, corruption=0.5))
    assert torch.equal(plain.codes, corrupted.codes)
    assert torch.equal(plain.latents, corrupted.latents)
    assert 0.4 < (plain.tokens != corrupted.tokens).float().mean() < 0.6
    assert not torch.equal(plain.drafts, corrupted.drafts)


def test_an_interrupted_run_goes_on_where_it_stopped(build, tokenizer, tmp_path, monkeypatch):
    whole = everything(build(root=tmp_path / "whole"))
    tokenizer.shown = 0
    read = HeldPictures.read

    def stop_at_the_third(self, start, stop):
        if start >= 64:
            raise KeyboardInterrupt
        return read(self, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(HeldPictures, "read", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            build(root=tmp_path / "parts")
    assert tokenizer.shown == 64
    resumed = everything(build(root=tmp_path / "parts"))
    assert tokenizer.shown == 140
    assert all(torch.equal(value, whole.named()[name]) for name, value in resumed.named().items())


def test_processes_share_out_the_shards(build, tokenizer, tmp_path):
    whole = everything(build(root=tmp_path / "alone"))
    tokenizer.shown = 0
    assert build(root=tmp_path / "both", process=1, processes=2) is None, "the other's shards are missing"
    assert tokenizer.shown < 140
    both = build(root=tmp_path / "both", process=0, processes=2)
    assert tokenizer.shown == 140
    assert all(torch.equal(value, whole.named()[name]) for name, value in everything(both).named().items())


def test_pictures_that_cannot_be_read_are_left_out(build, monkeypatch):
    read = HeldPictures.read

    def without_some(self, start, stop):
        part = read(self, start, stop)
        kept = [place for place, key in enumerate(part.keys) if key not in ("p3", "p33") and int(key[1:]) < 64]
        return PictureBatch(
            images=part.images[kept], keys=[part.keys[k] for k in kept], captions=[part.captions[k] for k in kept]
        )

    whole = everything(build(views=1))
    monkeypatch.setattr(HeldPictures, "read", without_some)
    cache = build(views=1, seed=5)
    kept = [place for place in range(64) if place not in (3, 33)]
    assert cache.keys == [f"p{place}" for place in kept]
    assert torch.equal(everything(cache).codes, whole.codes[kept])
    monkeypatch.setattr(HeldPictures, "read", lambda self, start, stop: read(self, 0, 0))
    with pytest.raises(SoftDecodeError, match="none of the training pictures"):
        build(views=1, seed=6)


def test_a_damaged_shard_is_refused(build, tmp_path):
    cache = build()
    whole = everything(cache)
    file = cache.folder / "view1-000000032.safetensors"
    del cache  # it has the files mapped
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SoftDecodeError, match=r"view1-000000032.*damaged.*delete it"):
        build()
    file.unlink()
    assert torch.equal(everything(build()).codes, whole.codes)


def test_a_trial_with_the_first_pictures_is_another_cache(tokenizer, make_vae, tmp_path):
    """Its first shard must not stand for that of the whole set, which has the same digest."""

    class First(HeldPictures):
        count = 70

        def __len__(self):
            return self.count

    pictures, encoder = First(some_pictures()), FeatureEncoder(tokenizer=tokenizer, vae=make_vae())
    First.count = 3
    assert len(build_cache(tmp_path, pictures, encoder)) == 3
    First.count = 70
    assert len(build_cache(tmp_path, pictures, encoder)) == 70


@pytest.mark.parametrize("augmentation", ["none", "emoji"])
def test_the_augmentation_of_one_view_changes_nothing(build, tokenizer, augmentation):
    """The first view is the picture itself."""
    build(views=1, augmentation="mirror")
    shown = tokenizer.shown
    build(views=1, augmentation=augmentation)
    assert tokenizer.shown == shown


@pytest.mark.parametrize(("changes", "named"), [({"views": 0}, "--views"), ({"corruption": 1.5}, "corruption")])
def test_settings_out_of_range_are_refused(build, changes, named):
    with pytest.raises(SoftDecodeError, match=named):
        build(**changes)


def test_the_digest_is_of_pictures_names_and_captions():
    usual = some_pictures()
    digests = {
        HeldPictures(changed).digest
        for changed in (
            usual,
            replace(usual, images=usual.images.flip(0)),
            replace(usual, keys=usual.keys[::-1]),
            replace(usual, captions=[*usual.captions[:-1], None]),
        )
    }
    assert len(digests) == 4
    assert HeldPictures(some_pictures()).digest in digests
