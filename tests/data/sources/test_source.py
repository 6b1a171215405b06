"""What every kind of source promises: all samples once, and streams that go on exactly where they stopped."""

import json
from itertools import chain, islice

import pytest
import torch

from softdecode.data.sources import CorruptPictures, PictureTransform, load_pictures, open_source, some_pictures
from softdecode.data.sources.source import NumberedSource
from softdecode.errors import SoftDecodeError

from .conftest import DAMAGED, pictures, write_tars

COUNT = 13


def numbers_in(samples):
    """Which pictures these are, by their colour; checks that image and caption belong together."""
    found = []
    for sample in samples:
        number = int(sample.image[0, 0, 0])
        assert sample.image.shape == (3, 5, 6)
        assert sample.image.dtype == torch.uint8
        assert sample.caption == f"picture {number}"
        found.append(number)
    return found


@pytest.fixture
def source(make_spec, options):
    opened = open_source(make_spec(pictures(COUNT)), **options)
    if hasattr(opened, "block_size"):
        opened.block_size = 4  # several blocks in an epoch
    if hasattr(opened, "shards_at_once"):
        opened.shards_at_once = 2
    return opened


def test_every_usable_sample_comes_once_in_order(source, corrupt):
    samples = list(source.samples(corrupt))
    assert numbers_in(samples) == [number for number in range(COUNT) if number != DAMAGED]
    assert [sample.number for sample in samples] == numbers_in(samples)
    assert len({sample.key for sample in samples}) == COUNT - 1
    assert (corrupt.seen, corrupt.skipped) == (COUNT, 1)


def test_samples_go_on_at_any_number(source, corrupt):
    samples = list(source.samples(corrupt))
    for start in range(COUNT + 1):
        rest = list(source.samples(corrupt, start))
        assert [(s.key, s.number) for s in rest] == [(s.key, s.number) for s in samples if s.number >= start]


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 3)])
def test_a_stream_goes_on_exactly_where_it_stopped(source, corrupt, rank, world):
    """From the state after any sample, through several epochs or draws, the damaged picture in between."""
    place = {"seed": 3, "rank": rank, "world": world}
    stream = source.stream(corrupt, **place)
    states, samples = [stream.state_dict()], []
    for sample in islice(stream, 30):
        samples.append((sample.key, sample.number, sample.image.tolist(), sample.caption))
        states.append(stream.state_dict())
    for position, state in enumerate(states):
        again = source.stream(corrupt, **place, state=json.loads(json.dumps(state)))
        assert again.state_dict() == state
        rest = [(s.key, s.number, s.image.tolist(), s.caption) for s in islice(again, len(samples) - position)]
        assert rest == samples[position:]


def test_threads_change_nothing(source, corrupt):
    stream = source.stream(corrupt, seed=3)
    alone = [(sample.key, stream.state_dict()) for sample in islice(stream, 30)]
    in_order = [sample.key for sample in source.samples(corrupt)]
    source.threads = 3
    stream = source.stream(corrupt, seed=3)
    assert [(sample.key, stream.state_dict()) for sample in islice(stream, 30)] == alone
    assert [sample.key for sample in source.samples(corrupt)] == in_order


def test_the_seed_decides_the_order(source, corrupt):
    first, same, other = (
        [sample.key for sample in islice(source.stream(corrupt, seed=seed), 2 * COUNT)] for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other
    assert first[: COUNT - 1] != [sample.key for sample in source.samples(corrupt)]


def test_processes_share_an_epoch_out(make_spec, options, corrupt):
    """Together two ranks see every picture once before one comes again; with 12 of them both halves are equal."""
    source = open_source(make_spec(pictures(12, damaged=())), **options)
    for world in (1, 2, 3):
        parts = [
            numbers_in(islice(source.stream(corrupt, seed=5, rank=rank, world=world), 12 // world))
            for rank in range(world)
        ]
        assert sorted(chain.from_iterable(parts)) == list(range(12))


def test_a_state_of_something_else_is_refused(make_spec, options, corrupt):
    files = pictures(COUNT)
    spec = make_spec(files)
    source = open_source(spec, **options)
    state = source.stream(corrupt, seed=1).state_dict()
    changed = pictures(COUNT, damaged=(5,))
    others = {
        "seed 1, now it is 2": (source, {"seed": 2}),
        "world 1, now it is 2": (source, {"seed": 1, "world": 2}),
        "source .*, now it is": (open_source(make_spec(changed, "changed"), **options), {"seed": 1}),
        "with source": (open_source(spec, **{**options, "transform": PictureTransform((4, 4))}), {"seed": 1}),
    }
    for message, (other, place) in others.items():
        with pytest.raises(SoftDecodeError, match=message):
            other.stream(corrupt, **place, state=state)
    with pytest.raises(SoftDecodeError, match=r"lacks seed, rank, world, .*cursor, position;"):
        source.stream(corrupt, seed=1, state={"source": "a", "number": 1})


def test_the_order_s_own_settings_belong_to_the_state(tmp_path, options, corrupt):
    from softdecode.data.sources.tars import TarSource

    root = write_tars(tmp_path / "tars", pictures(COUNT))
    one, two = (TarSource(root, options["transform"], cache=options["cache"], shards_at_once=n) for n in (1, 2))
    with pytest.raises(SoftDecodeError, match="shards_at_once 1, now it is 2"):
        two.stream(corrupt, seed=1, state=one.stream(corrupt, seed=1).state_dict())


@pytest.mark.parametrize(("rank", "world"), [(1, 1), (-1, 2), (0, 0)])
def test_ranks_that_do_not_exist_are_refused(source, corrupt, rank, world):
    with pytest.raises(SoftDecodeError, match=f"rank {rank} of {world} processes"):
        source.stream(corrupt, seed=1, rank=rank, world=world)


def test_a_stream_of_nothing_usable_ends_with_an_error(make_spec, options, tmp_path):
    source = open_source(make_spec(pictures(3, damaged=(0, 1, 2))), **options)
    with pytest.raises(SoftDecodeError, match=r"11 of 11 pictures could not be used, more than 1.00%"):
        next(source.stream(CorruptPictures(tmp_path / "list.jsonl"), seed=1))


def test_pictures_are_held_in_memory(make_spec, options, corrupt):
    source = open_source(make_spec(pictures(COUNT)), **options)
    held = load_pictures(source, corrupt)
    assert held.images.shape == (COUNT - 1, 3, 5, 6)
    assert held.images[:, 0, 0, 0].tolist() == [number for number in range(COUNT) if number != DAMAGED]
    assert held.captions[DAMAGED] == "picture 5"
    assert len(load_pictures(source, corrupt, limit=5)) == 5
    with pytest.raises(SoftDecodeError, match=r"12 usable pictures, 13 were asked for; .*unusable.jsonl lists"):
        load_pictures(source, corrupt, limit=13)


def test_nothing_usable_cannot_be_held(make_spec, options, corrupt):
    source = open_source(make_spec(pictures(3, damaged=(0, 1, 2))), **options)
    with pytest.raises(SoftDecodeError, match="has 0 usable pictures, at least one"):
        load_pictures(source, corrupt)


def test_some_pictures_are_spread_over_what_can_be_read_at_once(make_spec, options, corrupt):
    """A folder's first pictures may be all of one class; tars and streams are read from the start."""
    source = open_source(make_spec(pictures(COUNT)), **options)
    colours = some_pictures(source, corrupt, 3).images[:, 0, 0, 0].tolist()
    assert colours == ([0, 6, 12] if isinstance(source, NumberedSource) else [0, 1, 2])
    assert some_pictures(source, corrupt, 100).images.shape[0] == COUNT - 1
    assert corrupt.skipped == 1


def test_some_pictures_may_not_be_unusable(make_spec, options, tmp_path):
    source = open_source(make_spec(pictures(COUNT, damaged=(0,))), **options)
    with pytest.raises(SoftDecodeError, match="1 of 1 pictures could not be used"):
        some_pictures(source, CorruptPictures(tmp_path / "list.jsonl", limit=0.0, minimum=0), 3)


def test_identity_is_that_of_content_and_transform(make_spec, options):
    """The same wherever it lies; another for a changed byte, another number of pictures or another size."""
    files = pictures(COUNT)
    first = open_source(make_spec(files), **options).identity
    assert open_source(make_spec(files, "elsewhere"), **options).identity == first
    others = [
        open_source(make_spec(pictures(COUNT, damaged=(5,)), "changed"), **options),
        open_source(make_spec(pictures(COUNT + 1), "more"), **options),
        open_source(make_spec(files), **{**options, "transform": PictureTransform((5, 5))}),
    ]
    assert len({first, *(other.identity for other in others)}) == 4
