"""The feature cache: read when nothing changed, and only then."""

import pytest
import torch
from torch import nn

from softdecode.errors import SoftDecodeError
from softdecode.images import to_uint8, to_unit_range
from softdecode.latents import encode_images
from softdecode.training.features import encode
from softdecode.vlm.base import nearest_tokens


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


@pytest.fixture
def tokenizer():
    return CountingTokenizer()


@pytest.fixture
def images():
    return torch.randint(0, 256, (70, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def look_up(tokenizer, images, make_vae, tmp_path):
    """`encode` with everything as it was, but for what is given."""
    usual = {"images": images, "tokenizer": tokenizer, "vae": make_vae(), "views": 2, "seed": 3, "cache": tmp_path}

    def call(**changes):
        given = {**usual, **changes}
        return encode(given.pop("images"), given.pop("tokenizer"), given.pop("vae"), **given)

    return call


def test_rows_are_views_of_the_pictures(look_up, tokenizer, images, make_vae):
    found = look_up()
    assert tokenizer.shown == 140
    assert found.codes.shape == (140, 4, 4, 5)
    assert found.latents.shape == (140, 2, 8, 8)
    unit = images.float() / 127.5 - 1
    # The first view is the picture itself, up to bfloat16's arithmetic.
    torch.testing.assert_close(found.codes[:70].float(), tokenizer.features(unit), rtol=0, atol=5e-2)
    torch.testing.assert_close(found.latents[:70].float(), encode_images(make_vae(), unit), rtol=0, atol=1e-1)
    pictures = to_uint8(tokenizer.decode(nearest_tokens(found.codes, tokenizer.codebook)))
    drafts = encode_images(make_vae(), to_unit_range(pictures))
    agreeing = torch.isclose(found.drafts.float(), drafts, rtol=0, atol=1e-1).flatten(1).all(1)
    assert agreeing.float().mean() > 0.5  # in the others a token is a near tie, which bfloat16 decides otherwise
    # Of the second, those that no draw touched are the pictures, too: about a fifth.
    unchanged = (found.codes[70:] == found.codes[:70]).flatten(1).all(1)
    assert 0.05 < unchanged.float().mean() < 0.5
    assert torch.equal(unchanged, (found.latents[70:] == found.latents[:70]).flatten(1).all(1))


def test_a_second_call_reads_the_file(look_up, tokenizer):
    first = look_up()
    shown = tokenizer.shown
    second = look_up()
    assert tokenizer.shown == shown
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.latents, second.latents)


def other_images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (70, 3, 16, 16), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "changes",
    [{"seed": 4}, {"views": 1}, {"views": 3}, {"images": other_images()}],
    ids=["seed", "fewer", "more", "images"],
)
def test_another_setting_reads_no_old_file(look_up, tokenizer, tmp_path, changes):
    look_up()
    shown = tokenizer.shown
    look_up(**changes)
    assert tokenizer.shown > shown
    assert len(list(tmp_path.iterdir())) == 2


def test_other_weights_read_no_old_file(look_up, tokenizer, make_vae, tmp_path):
    first = look_up()
    tokenizer.patches.weight[0, 0, 0, 0] += 0.01
    shown = tokenizer.shown
    second = look_up()
    assert tokenizer.shown == 2 * shown
    assert not torch.equal(first.codes, second.codes)
    third = look_up(vae=make_vae(seed=1))
    assert tokenizer.shown == 3 * shown
    assert not torch.equal(second.latents, third.latents)
    assert len(list(tmp_path.iterdir())) == 3


def test_another_latent_scale_reads_no_old_file(look_up, make_vae):
    first = look_up(vae=make_vae(scale=1.0))
    second = look_up(vae=make_vae(scale=2.0))
    torch.testing.assert_close(second.latents.float(), 2 * first.latents.float(), rtol=1e-2, atol=1e-2)


def test_a_damaged_file_is_refused(look_up, tmp_path):
    look_up()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SoftDecodeError, match="damaged"):
        look_up()


def test_the_models_can_be_used_in_training_afterwards(look_up):
    """Tensors made in inference mode could not be: what is returned comes from the file."""
    found = look_up()
    weight = torch.ones(5, requires_grad=True)
    (found.codes.float() @ weight).sum().backward()
    assert torch.isfinite(weight.grad).all()
