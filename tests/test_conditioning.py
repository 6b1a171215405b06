"""The condition: what each mode shows, the encoder against a numpy reference, and the addition to the tokens."""

import numpy as np
import pytest
import torch
from torch import nn

from softdecode.conditioning import ConditionEncoder, added_to, condition_inputs
from softdecode.errors import SoftDecodeError

HIDDEN, WIDTH = 16, 5


@pytest.fixture
def encoder():
    """A condition encoder of random weights everywhere, its normalisation's and its projection's included."""
    encoder = ConditionEncoder(4, HIDDEN, WIDTH)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return encoder.requires_grad_(False)


def random_inputs(batch=2, grid=(3, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *grid, 4, generator=generator), torch.rand(batch, *grid, 4, generator=generator)


def numpy_condition(encoder, codes, uncertainty):
    """Equations 19 to 22 of one image [h, w, ·] in float64, token by token, row by row."""
    weights = {name: value.double().numpy() for name, value in encoder.state_dict().items()}
    height, width, _ = codes.shape
    hidden = codes.double().numpy() @ weights["linear.weight"].T + weights["linear.bias"]
    padded = np.pad(hidden, ((1, 1), (1, 1), (0, 0)))
    kernel = weights["conv.weight"]
    convolved = np.zeros((height, width, HIDDEN))
    for row, column in np.ndindex(height, width):
        window = padded[row : row + 3, column : column + 3]
        convolved[row, column] = np.einsum("ijc,ocij->o", window, kernel) + weights["conv.bias"]
    groups = convolved.reshape(height, width, 8, HIDDEN // 8)
    mean, variance = groups.mean((0, 1, 3), keepdims=True), groups.var((0, 1, 3), keepdims=True)
    normed = ((groups - mean) / np.sqrt(variance + encoder.norm.eps)).reshape(height, width, HIDDEN)
    normed = normed * weights["norm.weight"] + weights["norm.bias"]
    active = normed / (1 + np.exp(-normed))
    features = np.concatenate([active, uncertainty.double().numpy()], axis=-1).reshape(height * width, -1)
    return features @ weights["projection.weight"].T + weights["projection.bias"]


def numpy_bilinear(grid, height, width):
    """Bilinear interpolation [h, w, c] with pixel centres at halves and clamped edges."""
    found = np.zeros((height, width, grid.shape[-1]))
    for row, column in np.ndindex(height, width):
        y = np.clip((row + 0.5) * grid.shape[0] / height - 0.5, 0, grid.shape[0] - 1)
        x = np.clip((column + 0.5) * grid.shape[1] / width - 0.5, 0, grid.shape[1] - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[1] - 1)
        above = (1 - (x - left)) * grid[top, left] + (x - left) * grid[top, right]
        below = (1 - (x - left)) * grid[bottom, left] + (x - left) * grid[bottom, right]
        found[row, column] = (1 - (y - top)) * above + (y - top) * below
    return found


# --- modes --------------------------------------------------------------------------------------------------------


def test_hard_shows_the_chosen_codes_and_no_uncertainty(make_codebook, make_distribution):
    codebook = make_codebook()
    distribution = make_distribution(codebook)
    codes, uncertainty = condition_inputs(distribution, codebook, "hard")
    for place in np.ndindex(*distribution.tokens.shape):
        assert torch.equal(codes[place], codebook[distribution.tokens[place]])
    assert torch.equal(uncertainty, torch.zeros(3, 4, 4, 4))


def test_soft_shows_the_expected_codes_and_the_uncertainty(make_codebook, make_distribution):
    distribution = make_distribution(make_codebook())
    codes, uncertainty = condition_inputs(distribution, make_codebook(), "soft")
    assert torch.equal(codes, distribution.codes)
    assert torch.equal(uncertainty, distribution.uncertainty)


def test_joint_shows_the_chosen_codes_before_the_expected_ones(make_codebook, make_distribution):
    codebook = make_codebook()
    distribution = make_distribution(codebook)
    codes, uncertainty = condition_inputs(distribution, codebook, "joint")
    assert torch.equal(codes[..., :4], condition_inputs(distribution, codebook, "hard")[0])
    assert torch.equal(codes[..., 4:], distribution.codes)
    assert torch.equal(uncertainty, distribution.uncertainty)


def test_an_unknown_mode_and_another_codebooks_dimension_are_refused(make_codebook, make_distribution):
    distribution = make_distribution(make_codebook())
    with pytest.raises(SoftDecodeError, match=r"'vague'.*hard, soft, joint"):
        condition_inputs(distribution, make_codebook(), "vague")
    with pytest.raises(SoftDecodeError, match=r"4 dimensions.*6"):
        condition_inputs(distribution, make_codebook(dim=6), "soft")


# --- the encoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(3, 4), (6, 8), (2, 2)])
def test_before_training_the_condition_is_exactly_zero(grid):
    codes, uncertainty = random_inputs()
    condition = ConditionEncoder(4, HIDDEN, WIDTH)(1e3 * codes, uncertainty, grid)
    assert torch.equal(condition, torch.zeros(2, grid[0] * grid[1], WIDTH))


def test_before_training_the_projection_has_a_gradient():
    # Zero weights must still be able to leave zero.
    encoder = ConditionEncoder(4, HIDDEN, WIDTH)
    encoder(*random_inputs(), (3, 4)).sum().backward()
    assert (encoder.projection.weight.grad.abs() > 0).all()


def test_the_encoder_against_a_numpy_reference(encoder):
    codes, uncertainty = random_inputs()
    found = encoder(codes, uncertainty, (3, 4))
    expected = np.stack([numpy_condition(encoder, *image) for image in zip(codes, uncertainty, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_on_an_equal_grid_nothing_is_interpolated(encoder):
    # A projection that copies the uncertainty shows it bit by bit, row by row.
    codes, uncertainty = random_inputs()
    encoder.projection.weight.zero_()
    encoder.projection.bias.zero_()
    encoder.projection.weight[:4, HIDDEN:] = torch.eye(4)
    found = encoder(codes, uncertainty, (3, 4))
    assert torch.equal(found[..., :4], uncertainty.view(2, 12, 4))


@pytest.mark.parametrize("grid", [(6, 8), (3, 8), (2, 3), (5, 5)])
def test_where_grids_differ_the_inputs_are_interpolated_bilinearly(grid, encoder):
    codes, uncertainty = random_inputs()
    found = encoder(codes, uncertainty, grid)
    for place in range(2):
        # The linear map and the interpolation commute, so the codes may be interpolated first.
        resized = [torch.from_numpy(numpy_bilinear(x[place].double().numpy(), *grid)) for x in (codes, uncertainty)]
        np.testing.assert_allclose(found[place], numpy_condition(encoder, *resized), rtol=0, atol=1e-4)


def test_a_draft_is_projected_and_added(encoder):
    codes, uncertainty = random_inputs()
    draft = torch.randn(2, 12, 6, generator=torch.Generator().manual_seed(4))
    drafted = ConditionEncoder(4, HIDDEN, WIDTH, draft_channels=6)
    drafted.load_state_dict({**drafted.state_dict(), **encoder.state_dict()})
    plain = encoder(codes, uncertainty, (3, 4))
    assert torch.equal(drafted(codes, uncertainty, (3, 4), draft), plain), "before training it changes nothing"
    drafted(codes, uncertainty, (3, 4), draft).sum().backward()
    assert (drafted.draft.weight.grad.abs() > 0).all()
    weight = torch.randn(WIDTH, 6, generator=torch.Generator().manual_seed(5))
    drafted.draft.weight.data.copy_(weight)
    torch.testing.assert_close(drafted(codes, uncertainty, (3, 4), draft), plain + draft @ weight.T)


def test_a_missing_draft_and_one_too_many_are_refused(encoder):
    draft = torch.zeros(2, 12, 6)
    with pytest.raises(SoftDecodeError, match="no use for a draft"):
        encoder(*random_inputs(), (3, 4), draft)
    with pytest.raises(SoftDecodeError, match="give it as the draft"):
        ConditionEncoder(4, HIDDEN, WIDTH, draft_channels=6)(*random_inputs(), (3, 4))


def test_images_do_not_influence_each_other(encoder):
    codes, uncertainty = random_inputs(batch=3)
    together = encoder(codes, uncertainty, (3, 4))
    for place in (2, 0, 1):
        alone = encoder(codes[place : place + 1], uncertainty[place : place + 1], (3, 4))
        torch.testing.assert_close(alone[0], together[place], rtol=0, atol=1e-5)


# --- the addition -------------------------------------------------------------------------------------------------


@pytest.fixture
def embedder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, WIDTH).requires_grad_(False)


def test_the_condition_is_added_exactly_and_only_inside_the_block(embedder):
    tokens, condition = torch.rand(2, 6, 3), torch.rand(2, 6, WIDTH)
    plain = embedder(tokens)
    with added_to(embedder, condition):
        assert torch.equal(embedder(tokens), plain + condition)
        with added_to(embedder, 2 * condition):
            assert torch.equal(embedder(tokens), (plain + condition) + 2 * condition)
        assert torch.equal(embedder(tokens), plain + condition)
    assert torch.equal(embedder(tokens), plain)


def test_an_exception_in_the_block_leaves_nothing_behind(embedder):
    tokens = torch.rand(2, 6, 3)
    plain = embedder(tokens)
    with pytest.raises(KeyError), added_to(embedder, torch.ones(2, 6, WIDTH)):
        raise KeyError("inside")
    assert torch.equal(embedder(tokens), plain)


@pytest.mark.parametrize("shape", [(2, 5, WIDTH), (1, 6, WIDTH), (2, 6, 1), (WIDTH,)])
def test_a_condition_of_another_shape_is_refused_even_if_it_could_be_broadcast(shape, embedder):
    tokens = torch.rand(2, 6, 3)
    plain = embedder(tokens)
    with pytest.raises(SoftDecodeError) as caught, added_to(embedder, torch.ones(shape)):
        embedder(tokens)
    assert str(list(shape)) in str(caught.value)
    assert str([2, 6, WIDTH]) in str(caught.value)
    assert torch.equal(embedder(tokens), plain)
