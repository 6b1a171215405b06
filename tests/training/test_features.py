"""Features: picking and splicing rows."""

import torch

from softdecode.training.features import Features


def features(count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Features(
        codes=torch.randn(count, 2, 3, 4, generator=generator),
        tokens=torch.randint(0, 99, (count, 2, 3), generator=generator),
        latents=torch.randn(count, 2, 4, 6, generator=generator),
        belief_uncertainty=torch.rand(count, 2, 3, 4, generator=generator),
    )


def test_rows_are_picked_from_every_tensor_that_is_there():
    whole = features()
    picked = whole.rows(torch.tensor([4, 0]))
    assert len(picked) == 2
    assert picked.named().keys() == {"codes", "tokens", "latents", "belief_uncertainty"}
    for name, value in picked.named().items():
        assert torch.equal(value, whole.named()[name][[4, 0]])


def test_splicing_takes_the_masked_places_of_each_grid_from_the_other():
    own, other = features(1, seed=1), features(1, seed=2)
    mask = torch.tensor([[[False, True, False], [True, False, False]]])
    mixed = own.spliced(other, mask)
    for name in ("codes", "tokens", "belief_uncertainty"):
        for row in range(2):
            for column in range(3):
                source = other if mask[0, row, column] else own
                assert torch.equal(mixed.named()[name][0, row, column], source.named()[name][0, row, column])
    for row in range(4):
        for column in range(6):  # two latents a token in each direction
            source = other if mask[0, row // 2, column // 2] else own
            assert torch.equal(mixed.latents[0, :, row, column], source.latents[0, :, row, column])
    assert all(
        torch.equal(own.spliced(other, ~mask).named()[n], other.spliced(own, mask).named()[n]) for n in own.named()
    )
