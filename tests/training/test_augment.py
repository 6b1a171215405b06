"""Augmentation: every result is a mirrored, shifted, recoloured picture, and nothing else."""

import itertools

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.seeds import generator_for
from softdecode.training import augment as augment_module
from softdecode.training.augment import augment, splice_masks


def pictures(count, size=8, seed=0):
    """Random pictures without white, so that filling can be told from content."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def generators(count, seed=0):
    return [generator_for(seed, place) for place in range(count)]


def augmented(images, seed=0, **options):
    return augment(images, generators(len(images), seed), **options)


def shifted(image, down, right):
    """The picture moved on an endless white ground."""
    height, width = image.shape[1:]
    result = torch.full_like(image, 255)
    for row, column in itertools.product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            result[:, row, column] = image[:, row - down, column - right]
    return result


def explain(image, result, reach):
    """(mirrored, order of channels, down, right) that turn `image` into `result`; None where nothing does."""
    for mirrored, order in itertools.product((False, True), itertools.permutations(range(3))):
        changed = (image.flip(-1) if mirrored else image)[list(order)]
        for down, right in itertools.product(range(-reach, reach + 1), repeat=2):
            if torch.equal(shifted(changed, down, right), result):
                return mirrored, order, down, right
    return None


def test_every_result_is_a_mirrored_shifted_recoloured_picture():
    images = pictures(60)
    results = augmented(images, max_shift=2)
    assert results.shape == images.shape
    assert results.dtype == torch.uint8
    found = [explain(image, result, reach=2) for image, result in zip(images, results, strict=True)]
    assert None not in found
    mirrored, orders, down, right = zip(*found, strict=True)
    assert set(mirrored) == {False, True}
    assert set(down) == set(right) == set(range(-2, 3))
    assert len(set(orders)) > 3


def test_shares_of_the_changes():
    """Half mirrored, a quarter with their channels permuted (a sixth of which in the old order), half moved."""
    count = 600
    found = [
        explain(image, result, reach=1)
        for image, result in zip(pictures(count, size=4), augmented(pictures(count, size=4), max_shift=1), strict=True)
    ]
    share = {
        "mirrored": sum(mirrored for mirrored, _, _, _ in found) / count,
        "recoloured": sum(order != (0, 1, 2) for _, order, _, _ in found) / count,
        "moved": sum((down, right) != (0, 0) for _, _, down, right in found) / count,
    }
    # Expected: 1/2, 1/4·5/6, 1/2·8/9; four standard deviations of 600 draws are 0.08.
    assert share == pytest.approx({"mirrored": 1 / 2, "recoloured": 5 / 24, "moved": 4 / 9}, abs=0.08)


def test_what_a_shift_uncovers_is_white():
    black = torch.zeros(40, 3, 6, 6, dtype=torch.uint8)
    results = augmented(black, max_shift=3)
    assert set(results.unique().tolist()) == {0, 255}
    whole = (results == 255).all(1)
    # A shift uncovers whole rows and columns at the border, in every channel alike.
    assert torch.equal(whole, (results == 255).any(1))
    for image in whole:
        rows, columns = image.all(1), image.all(0)
        assert torch.equal(image, rows[:, None] | columns[None, :])


def test_without_room_to_shift_pictures_stay_in_place():
    images = pictures(40)
    for image, result in zip(images, augmented(images, max_shift=0), strict=True):
        assert explain(image, result, reach=0) is not None


def test_a_picture_is_the_same_in_any_part_of_a_batch():
    images, whole = pictures(6), augmented(pictures(6))
    assert torch.equal(augment(images[2:4], generators(6)[2:4]), whole[2:4])
    masks = splice_masks((4, 4), 0.5, generators(20))
    assert torch.equal(splice_masks((4, 4), 0.5, generators(20)[7:9]), masks[7:9])


def test_the_generator_decides_and_nothing_else():
    images = pictures(20)
    before = images.clone()
    first = augmented(images, seed=1)
    torch.manual_seed(99)
    assert torch.equal(augmented(images, seed=1), first)
    assert not torch.equal(augmented(images, seed=2), first)
    assert torch.equal(images, before), "the pictures given are left alone"


# --- splicing -----------------------------------------------------------------------------------------------------


def test_a_splice_mask_is_one_cut_along_a_row_or_a_column():
    masks = splice_masks((3, 5), 1.0, generators(400))
    cuts = [torch.arange(3)[:, None].expand(3, 5) > row for row in range(2)]
    cuts += [torch.arange(5)[None, :].expand(3, 5) > column for column in range(4)]
    counts = [sum(torch.equal(mask, cut) for mask in masks) for cut in cuts]
    assert sum(counts) == 400, "nothing else, and both pictures have a part in each"
    # Rows and columns are as likely, and so are the places: 400/2/2 and 400/2/4, within four standard deviations.
    assert counts == pytest.approx([100, 100, 50, 50, 50, 50], abs=36)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_spliced_pictures(share):
    masks = splice_masks((4, 4), share, generators(1000, seed=1))
    assert masks.flatten(1).any(1).float().mean().item() == pytest.approx(share, abs=0.06 if 0 < share < 1 else 0)


# --- other pictures, and tokens -----------------------------------------------------------------------------------


def test_photographs_are_mirrored_half_the_time_and_never_changed_otherwise():
    images = pictures(200)
    found = augment_module.augmented(images, "mirror", generators(200))
    mirrored = (found == images.flip(-1)).flatten(1).all(1)
    assert 0.4 < mirrored.float().mean() < 0.6
    assert torch.equal(found[~mirrored], images[~mirrored])
    assert augment_module.augmented(images, "none", []) is images
    assert torch.equal(augment_module.augmented(images, "emoji", generators(200)), augmented(images))
    with pytest.raises(SoftDecodeError, match="unknown augmentation 'zoom'"):
        augment_module.augmented(images, "zoom", generators(200))


def test_corrupted_tokens_are_near_the_true_ones():
    codebook = torch.nn.functional.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    tokens = torch.randint(0, 50, (20, 6, 5), generator=torch.Generator().manual_seed(2))
    found = augment_module.corrupt_tokens(tokens, codebook, 0.3, generators(20))
    changed = found != tokens
    assert 0.2 < changed.float().mean() < 0.4
    similarities = codebook @ codebook.T
    ranks = (similarities[tokens] > similarities[tokens, found][..., None]).sum(-1)  # codes nearer than the new one
    assert ranks[changed].min() == 1, "the code itself alone is nearer than the nearest"
    assert ranks[changed].max() == 8
    assert torch.equal(augment_module.corrupt_tokens(tokens, codebook, 0.0, []), tokens)
    everywhere = augment_module.corrupt_tokens(tokens, codebook, 1.0, generators(20))
    assert (everywhere != tokens).all()


def test_corruption_of_a_picture_is_its_own():
    codebook = torch.eye(12)
    tokens = torch.randint(0, 12, (3, 4, 4), generator=torch.Generator().manual_seed(2))
    together = augment_module.corrupt_tokens(tokens, codebook, 0.5, generators(3))
    alone = augment_module.corrupt_tokens(tokens[2:], codebook, 0.5, generators(3)[2:])
    assert torch.equal(together[2:], alone)
