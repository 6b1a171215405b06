"""What the training tests share: drawn pictures, and comparing gradients."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from softdecode.seeds import generator_for


@pytest.fixture(scope="session")
def make_pictures():
    """Coloured discs and boxes on white: [count, 3, size, size] uint8."""

    def make(count, size, seed=0):
        generator = torch.Generator().manual_seed(seed)
        rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        images = torch.full((count, 3, size, size), 255, dtype=torch.uint8)
        for place, image in enumerate(images):
            row, column = (torch.rand(2, generator=generator) * size / 2 + size / 4).tolist()
            reach = size * (0.2 + 0.2 * torch.rand((), generator=generator).item())
            distances = (rows - row).abs(), (columns - column).abs()
            inside = torch.maximum(*distances) < reach if place % 2 else torch.hypot(*distances) < reach
            colour = torch.randint(0, 200, (3, 1), generator=generator).to(torch.uint8)
            image[:, inside] = colour
        return images

    return make


@pytest.fixture(scope="session")
def sample_generators():
    """A generator for each sample of a batch, as the loop makes them."""

    def make(count, seed=0):
        return [generator_for("sample", seed, 0, place) for place in range(count)]

    return make


@pytest.fixture(scope="session")
def make_batch(sample_generators):
    """The batch of a task's samples: the first `count` of them, or those named."""

    def make(task, count=6, seed=0, indices=None):
        chosen = torch.arange(count) if indices is None else torch.as_tensor(indices)
        return task.batch(chosen, sample_generators(len(chosen), seed))

    return make


@pytest.fixture(scope="session")
def gradients():
    """The gradients of a task's loss by parameter name, under autocast to a dtype, or without autocast where None."""

    def compute(task, batch, dtype, step=10**6):
        task.zero_grad()
        with torch.autocast("cpu", dtype) if dtype is not None else nullcontext():
            loss = task(batch, step)["loss"]
        loss.backward()
        return {name: p.grad.double().clone() for name, p in task.named_parameters() if p.grad is not None}

    return compute


@pytest.fixture(scope="session")
def assert_gradients_agree():
    """Same parameters, and the same direction and length wherever a gradient is not next to nothing.

    A silent zero, as torch.compile once gave (spec section 7), fails; so does a wrong sign or scale.
    """

    def check(found, expected, *, each=0.99):
        assert found.keys() == expected.keys()
        largest = max(gradient.norm() for gradient in expected.values())
        weighty = sorted(name for name, gradient in expected.items() if gradient.norm() > 1e-3 * largest)
        assert len(weighty) > len(expected) / 2
        for name in weighty:
            similarity = F.cosine_similarity(found[name].flatten(), expected[name].flatten(), dim=0).item()
            ratio = (found[name].norm() / expected[name].norm()).item()
            assert similarity >= each, f"{name}: cosine {similarity}"
            assert 0.9 < ratio < 1.1, f"{name}: length {ratio}"
        whole = [torch.cat([part[name].flatten() for name in weighty]) for part in (found, expected)]
        assert F.cosine_similarity(*whole, dim=0) >= 0.99

    return check
