"""What stops a run: losses that are not finite or explode."""

import math

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.training.config import LoopConfig
from softdecode.training.guard import LossGuard
from softdecode.training.task import Task


class Named(Task):
    def names(self, indices):
        return [f"picture-{index}" for index in indices.tolist()]


def guard(ratio=3.0, warmup=2):
    return LossGuard(LoopConfig(steps=10, warmup_steps=warmup, max_loss_ratio=ratio))


def check(given, step, loss, task=None):
    given.check(step, {"loss": loss, "grad_norm": 1.0}, torch.tensor([4, 7]), task or Task())


def test_an_exploding_loss_is_named_with_its_samples():
    given = guard()
    for step, loss in enumerate((1.0, 2.0, 3.0)):
        check(given, step, loss)
    check(given, 3, 5.9)  # the mean is 2
    mean = (1 + 2 + 3 + 5.9) / 4
    assert given.mean == pytest.approx(mean)
    with pytest.raises(SoftDecodeError, match="exploded at step 5") as caught:
        check(given, 4, 3 * mean + 0.1, Named())
    for words in ("2.975", "allows 3 times", "samples [4, 7]", "picture-4, picture-7"):
        assert words in str(caught.value)
    assert given.mean == pytest.approx(mean), "what stopped the run is not part of the mean"


def test_nothing_explodes_during_warm_up_nor_where_it_is_not_asked_for():
    check_all = [guard(warmup=3), guard(ratio=0.0)]
    for given in check_all:
        for step, loss in enumerate((1.0, 50.0, 1000.0)):
            check(given, step, loss)
    with pytest.raises(SoftDecodeError, match="exploded"):
        check(check_all[0], 3, 2000.0)
    check(check_all[1], 3, 2000.0)


def test_the_mean_forgets():
    given = guard()
    for step in range(1000):
        check(given, step, 100.0 if step < 100 else 1.0)
    assert given.mean == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm", "other"])
def test_whatever_is_not_finite_stops_the_run(name, value):
    losses = {"loss": 1.0, "grad_norm": 1.0, "other": 1.0, name: value}
    with pytest.raises(SoftDecodeError, match=r"diverged at step 1.*samples \[4, 7\], picture-4, picture-7"):
        guard(ratio=0.0).check(0, losses, torch.tensor([4, 7]), Named())
