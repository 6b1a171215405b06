"""The optimisers: who gets which parameter, Muon's update against its definition, and what is stored of them."""

import pytest
import torch
from torch import nn

from softdecode.errors import SoftDecodeError
from softdecode.training.optimizer import build_optimizers


@pytest.fixture
def model():
    """A block of two matrices with biases, and an embedding and a norm outside it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
        return nn.ModuleDict({"embedding": nn.Embedding(5, 8), "block": block, "norm": nn.LayerNorm(8)})


def matrices(model):
    return [p for p in model["block"].parameters() if p.ndim == 2]


def build(name, model, **changed):
    settings = {"learning_rate": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.0, **changed}
    return build_optimizers(name, model.parameters(), matrices(model), **settings)


def give_gradients(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_trained_parameter_has_one_optimiser(name, model):
    model["norm"].weight.requires_grad_(False)
    optimizers = build(name, model)
    taken = [p for group in optimizers.param_groups for p in group["params"]]
    expected = {id(p) for p in model.parameters() if p.requires_grad}
    assert len(taken) == len(expected)
    assert {id(p) for p in taken} == expected
    muons = [p for member in optimizers.members if isinstance(member, torch.optim.Muon) for g in member.param_groups
             for p in g["params"]]  # fmt: skip
    assert {id(p) for p in muons} == ({id(p) for p in matrices(model)} if name == "muon" else set())


def test_weight_decay_is_for_matrices(model):
    for name in ("adamw", "muon"):
        for group in build(name, model, weight_decay=0.3).param_groups:
            for parameter in group["params"]:
                assert group["weight_decay"] == (0.3 if parameter.ndim >= 2 else 0.0)


def test_a_first_step_of_muon_is_nearly_orthogonal_and_as_large_as_adamws(model):
    """All singular values of the update are about equal; its root mean square is 0.2 (Liu et al. 2025)."""
    optimizers = build("muon", model, learning_rate=0.01)
    give_gradients(model)
    before = [p.detach().clone() for p in matrices(model)]
    optimizers.step()
    for old, parameter in zip(before, matrices(model), strict=True):
        update = (old - parameter.detach()) / 0.01
        values = torch.linalg.svdvals(update)
        assert values.min() > 0.5 * values.max()  # five Newton-Schulz steps bring them to 0.7 to 1.2 of one length
        assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.3)
        left, _, right = torch.linalg.svd(parameter.grad, full_matrices=False)
        cosine = nn.functional.cosine_similarity(update.flatten(), (left @ right).flatten(), dim=0)
        assert cosine > 0.95, "towards the nearest orthogonal matrix of the gradient"


def test_a_step_of_the_rest_is_adamws(model):
    optimizers = build("muon", model, learning_rate=0.01)
    give_gradients(model)
    before = model["embedding"].weight.detach().clone()
    optimizers.step()
    torch.testing.assert_close(
        model["embedding"].weight.detach(), before - 0.01 * model["embedding"].weight.grad.sign(), rtol=0, atol=1e-5
    )


def test_states_are_restored(model):
    first = build("muon", model)
    give_gradients(model)
    first.step()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value.clone() for name, value in first.named_state(dict(model.named_parameters()))}
    give_gradients(model, seed=2)
    first.step()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    second = build("muon", model)
    second.load_named_state(state, dict(model.named_parameters()), "here")
    give_gradients(model, seed=2)
    second.step()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_the_state_of_other_optimisers_is_refused(model):
    named = dict(model.named_parameters())
    for owner, reader in (("adamw", "muon"), ("muon", "adamw")):
        optimizer = build(owner, model)
        give_gradients(model)
        optimizer.step()
        with pytest.raises(SoftDecodeError, match=r"here is of another model or optimiser"):
            build(reader, model).load_named_state(dict(optimizer.named_state(named)), named, "here")


def test_the_state_of_other_shapes_is_refused(model):
    optimizer = build("adamw", model)
    give_gradients(model)
    optimizer.step()
    named = dict(model.named_parameters())
    state = {name: value[:2] if value.ndim else value for name, value in optimizer.named_state(named)}
    with pytest.raises(SoftDecodeError, match="here is of another model"):
        build("adamw", model).load_named_state(state, named, "here")


def test_muon_without_matrices_or_without_torchs_own_is_refused(model, monkeypatch):
    with pytest.raises(SoftDecodeError, match="no hidden matrices; use adamw"):
        build_optimizers("muon", model.parameters(), [], learning_rate=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(SoftDecodeError, match=r"torch 2\.9 or later"):
        build("muon", model)
