"""Features without a cache: the same numbers, streamed, and resumed to the bit."""

import itertools

import pytest
import torch
from PIL import Image

from softdecode.data.picture_sets import SourcePictures
from softdecode.data.sources import CorruptPictures, PictureTransform, open_source
from softdecode.errors import SoftDecodeError
from softdecode.seeds import generator_for
from softdecode.training.encoding import FeatureEncoder
from softdecode.training.feature_cache import build_cache
from softdecode.training.live_features import StreamedFeatures


class PatchTokenizer(torch.nn.Module):
    """Features are the mean colour of 4×4-pixel patches and a constant."""

    codebook = torch.nn.functional.normalize(torch.randn(16, 4, generator=torch.Generator().manual_seed(3)), dim=-1)

    def features(self, images):
        colours = torch.nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1)
        return torch.cat([colours, torch.ones_like(colours[..., :1])], dim=-1)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(11):
        Image.new("RGB", (16, 16), (number * 20, 90, 255 - number * 20)).save(folder / f"{number:02d}.png")
    (folder / "05.png").write_bytes(b"no picture")
    return open_source(str(folder), transform=PictureTransform((16, 16)), cache=tmp_path / "digests")


@pytest.fixture
def encoder(make_vae):
    return FeatureEncoder(tokenizer=PatchTokenizer(), vae=make_vae(), drafts=False)


@pytest.fixture
def live(source, encoder, tmp_path):
    corrupt = CorruptPictures(tmp_path / "unusable.jsonl")
    return StreamedFeatures(lambda state: source.stream(corrupt, seed=1, state=state), encoder)


def batch(live, count=3):
    return live.rows(torch.zeros(count, dtype=torch.int64), [generator_for(place) for place in range(count)])


def test_an_epoch_has_every_picture_once_with_the_features_of_the_cache(live, source, encoder, tmp_path):
    cache = build_cache(tmp_path / "cache", SourcePictures(source, CorruptPictures(tmp_path / "list")), encoder)
    assert len(cache) == 10
    found, names = [], []
    for _ in range(5):
        found.append(batch(live, 2))
        names += live.names(torch.tensor([0, 0]))
    assert sorted(names) == sorted(cache.keys)
    whole = cache.rows(torch.tensor([cache.keys.index(name) for name in names]))
    for kind, value in whole.named().items():
        torch.testing.assert_close(torch.cat([part.named()[kind] for part in found]), value, rtol=1e-2, atol=1e-2)


def test_a_stream_goes_on_where_its_state_was_taken(live):
    for _ in range(4):
        batch(live)
    state = live.state()
    expected = [batch(live) for _ in range(3)]
    live.load_state(state)
    again = [batch(live) for _ in range(3)]
    for one, other in zip(expected, again, strict=True):
        assert all(torch.equal(value, other.named()[name]) for name, value in one.named().items())


def test_looking_at_the_first_pictures_changes_nothing(live):
    state = live.state()
    assert len(live.first(4)) == 4
    assert live.state() == state


def test_a_source_is_read_in_any_parts(source, tmp_path):
    def pictures(**options):
        return SourcePictures(source, CorruptPictures(tmp_path / "list"), **options)

    whole = pictures().read(0, 11)
    assert len(whole) == 10
    assert len(pictures()) == 11
    for cuts in ([0, 3, 7, 11], [0, 5, 6, 11], [0, 1, 11]):
        given = pictures()
        parts = [given.read(start, stop) for start, stop in itertools.pairwise(cuts)]
        assert [key for part in parts for key in part.keys] == list(whole.keys)
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    backwards = pictures()
    assert [list(backwards.read(place, place + 1).keys) for place in (4, 2, 5)][2] == []
    assert backwards.read(9, 11).keys == whole.keys[-2:]
    assert len(pictures(limit=4)) == 4


def test_a_source_without_a_length_needs_a_limit(source, tmp_path):
    class Endless:
        identity, transform = "x", source.transform

    with pytest.raises(SoftDecodeError, match="--limit"):
        SourcePictures(Endless(), CorruptPictures(tmp_path / "list"))
    assert len(SourcePictures(Endless(), CorruptPictures(tmp_path / "list"), 3)) == 3
