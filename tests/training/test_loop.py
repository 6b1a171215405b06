"""The training loop: exact resumption, the schedule, data order, moving average, and what stops a run."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from softdecode.errors import SoftDecodeError
from softdecode.files import read_tensors
from softdecode.training.average import MovingAverage
from softdecode.training.checkpoint import latest_checkpoint
from softdecode.training.config import LoopConfig
from softdecode.training.loop import sample_order, train
from softdecode.training.task import Task

_CLOCK = {"samples_per_second", "seconds", "resumed_at"}  # the only part of a log that time decides
SAMPLES = 7


class Regression(Task):
    """Fits a small network to noisy, augmented points; uses both sources of randomness, and a state of its own."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.3), nn.Tanh(), nn.Linear(5, 1))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("visits", torch.zeros(SAMPLES))
        generator = torch.Generator().manual_seed(1)
        self.points = torch.randn(SAMPLES, 3, generator=generator)
        self.values = self.points.sum(-1, keepdim=True)
        self.samples = SAMPLES
        self.seen = []

    def batch(self, indices, generators):
        self.seen.append(indices)
        noise = 0.1 * torch.stack([torch.randn(3, generator=generator) for generator in generators])
        return {"x": self.points[indices] + noise, "y": self.values[indices], "indices": indices}

    def forward(self, batch, step):
        error = self.network(batch["x"]).float() - batch["y"]
        self.visits[batch["indices"]] += 1  # a duplicate index counts once: any rule will do
        return {"loss": error.square().mean(), "l1": error.abs().mean()}

    def moved_tensors(self):
        return {"visits": self.visits}

    def after_step(self, step, generator):
        self.visits += torch.rand(SAMPLES, generator=generator)


def settings(**changes):
    usual = {
        "steps": 6,
        "batch_size": 3,
        "learning_rate": 0.05,
        "warmup_steps": 2,
        "decay_fraction": 0.5,
        "precision": "fp32",
        "log_every": 1,
        "checkpoint_every": 1,
    }
    return LoopConfig(**{**usual, **changes})


def run(folder, config, *, resume=False, task=None):
    task = task or Regression()
    train(task, config, folder, job={"name": "test"}, resume=resume)
    return task


def log(folder):
    """The log's lines without speeds."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in _CLOCK} for line in lines]


def state(task):
    return {name: value.clone() for name, value in task.state_dict().items()}


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


class Interrupted(Exception):
    pass


class InterruptedRegression(Regression):
    """Stops as a killed process does, in the middle of a step."""

    def __init__(self, step):
        super().__init__()
        self.last_step = step

    def forward(self, batch, step):
        if step == self.last_step:
            raise Interrupted
        return super().forward(batch, step)


# --- resumption ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint_every", [1, 2])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, checkpoint_every):
    config = settings(checkpoint_every=checkpoint_every)
    straight = run(tmp_path / "straight", config)
    for resume, stop in ((False, 3), (True, 5)):
        with pytest.raises(Interrupted):
            run(tmp_path / "pieces", config, resume=resume, task=InterruptedRegression(stop))
    pieces = run(tmp_path / "pieces", config, resume=True)
    assert_same_state(state(pieces), state(straight))
    # Steps after the last checkpoint are repeated: with the same losses.
    by_step = {line["step"]: line for line in log(tmp_path / "straight")}
    assert sorted(by_step) == [1, 2, 3, 4, 5, 6]
    repeated = log(tmp_path / "pieces")
    assert {line["step"] for line in repeated} == set(by_step)
    assert all(line == by_step[line["step"]] for line in repeated)


def test_a_finished_run_can_be_continued_with_more_steps(tmp_path):
    # With a constant rate the longer run is the same as one that was always meant to be long.
    straight = run(tmp_path / "straight", settings(decay_fraction=0.0))
    run(tmp_path / "pieces", settings(decay_fraction=0.0, steps=3))
    pieces = run(tmp_path / "pieces", settings(decay_fraction=0.0), resume=True)
    assert_same_state(state(pieces), state(straight))
    assert log(tmp_path / "pieces") == log(tmp_path / "straight")
    # Nothing is left to do: the moving average is put back in place, and nothing is logged.
    again = run(tmp_path / "pieces", settings(decay_fraction=0.0), resume=True)
    assert_same_state(state(again), state(straight))
    assert len(log(tmp_path / "pieces")) == 6


def test_the_seed_decides_everything(tmp_path):
    first = run(tmp_path / "first", settings())
    second = run(tmp_path / "second", settings())
    other = run(tmp_path / "other", settings(seed=1))
    assert_same_state(state(first), state(second))
    assert not torch.equal(first.network[0].weight, other.network[0].weight)


def test_every_step_has_random_numbers_of_its_own(tmp_path):
    drawn = []

    class Watched(Regression):
        def batch(self, indices, generators):
            drawn.extend(torch.rand((), generator=generator).item() for generator in generators)
            return super().batch(indices, generators)

        def forward(self, batch, step):
            drawn.append(torch.rand(()).item())  # as dropout draws
            return super().forward(batch, step)

        def after_step(self, step, generator):
            drawn.append(torch.rand((), generator=generator).item())

    run(tmp_path / "first", settings(), task=Watched())
    run(tmp_path / "other", settings(seed=1), task=Watched())
    assert len(set(drawn)) == len(drawn) == 2 * (3 + 2) * 6


def test_the_callers_random_state_decides_nothing(tmp_path):
    first = run(tmp_path / "first", settings())
    torch.manual_seed(1234)
    assert_same_state(state(run(tmp_path / "second", settings())), state(first))


def test_the_run_is_recorded(tmp_path):
    config = settings()
    run(tmp_path, config)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["job"] == {"name": "test"}
    assert record["loop"]["steps"] == 6
    assert record["loop"]["betas"] == list(config.betas)
    assert record["provenance"]["versions"]["torch"] == torch.__version__
    line = log(tmp_path)[-1]
    assert line.keys() == {"step", "loss", "l1", "grad_norm"}


def test_logging_and_checkpoints_come_at_their_intervals_and_at_the_end(tmp_path):
    run(tmp_path, settings(steps=5, log_every=2, checkpoint_every=4))
    assert [line["step"] for line in log(tmp_path)] == [2, 4, 5]
    assert [folder.name for folder in (tmp_path / "checkpoint").iterdir()] == ["step-00000005"]
    record = json.loads((tmp_path / "checkpoint" / "step-00000005" / "state.json").read_text())
    assert (record["step"], record["average_updates"], record["data"]) == (5, 5, [{}])


def test_a_run_is_never_overwritten(tmp_path):
    run(tmp_path, settings())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SoftDecodeError, match="already holds a run; resume it"):
        run(tmp_path, settings())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(SoftDecodeError, match="holds no checkpoint to resume from"):
        run(tmp_path, settings(), resume=True)


class Bigger(Regression):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(3, 1)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path, settings())
    with pytest.raises(SoftDecodeError, match="of another model") as caught:
        run(tmp_path, settings(), resume=True, task=Bigger())
    assert "\n" not in str(caught.value)


def truncate(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [truncate, lambda path: path.unlink()], ids=["truncated", "missing"])
def test_a_damaged_checkpoint_is_refused(tmp_path, name, damage):
    run(tmp_path, settings())
    damage(latest_checkpoint(tmp_path) / name)
    with pytest.raises(SoftDecodeError):
        run(tmp_path, settings(steps=8), resume=True)


def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_can_be_resumed(tmp_path, monkeypatch):
    straight = run(tmp_path / "straight", settings())
    folder = tmp_path / "pieces"
    with pytest.raises(Interrupted):
        run(folder, settings(), task=InterruptedRegression(3))
    before = {path.name: path.read_bytes() for path in latest_checkpoint(folder).iterdir()}

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("softdecode.files.save_file", full)
        with pytest.raises(SoftDecodeError, match="No space left on device"):
            run(folder, settings(), resume=True)
    assert {path.name: path.read_bytes() for path in latest_checkpoint(folder).iterdir()} == before
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["step-00000003"]
    assert_same_state(state(run(folder, settings(), resume=True)), state(straight))


# --- what is trained ----------------------------------------------------------------------------------------------


def test_frozen_parameters_stay(tmp_path):
    task = run(tmp_path, settings(weight_decay=0.5))
    assert task.frozen.tolist() == [1.0, 1.0]
    assert not torch.equal(task.network[0].weight, Regression().network[0].weight)


def test_the_average_is_what_is_left_in_the_task(tmp_path):
    task = run(tmp_path, settings())
    folder = latest_checkpoint(tmp_path)
    raw, _ = read_tensors(folder / "trained.safetensors")
    average, _ = read_tensors(folder / "average.safetensors")
    assert torch.equal(task.network[0].weight, average["network.0.weight"])
    assert not torch.equal(task.network[0].weight, raw["network.0.weight"]), "the checkpoint keeps the raw weights"
    assert not task.training


def test_a_checkpoint_holds_what_training_changes_and_nothing_else(tmp_path):
    run(tmp_path, settings())
    weights, _ = read_tensors(latest_checkpoint(tmp_path) / "trained.safetensors")
    network = {f"network.{name}" for name in Regression().network.state_dict()}
    assert weights.keys() == network | {"visits"}, "the frozen parameter is not in it"
    average, _ = read_tensors(latest_checkpoint(tmp_path) / "average.safetensors")
    assert average.keys() == network


def test_weight_decay_is_on_matrices_only(tmp_path):
    """With gradients of zero, only decay moves a weight."""

    class Idle(Regression):
        def forward(self, batch, step):
            return {"loss": 0.0 * sum(p.sum() for p in self.network.parameters())}

    config = settings(steps=1, warmup_steps=0, decay_fraction=0.0, weight_decay=0.5, ema_decay=0.0)
    before = Regression().network
    after = run(tmp_path, config, task=Idle()).network
    torch.testing.assert_close(after[0].weight, before[0].weight * (1 - 0.05 * 0.5))
    assert torch.equal(after[0].bias, before[0].bias)


def test_a_first_step_is_adamws(tmp_path):
    """Adam's first step has length lr·sign(gradient), whatever the gradient's size and the clipping."""
    config = settings(steps=1, warmup_steps=4, decay_fraction=0.0, weight_decay=0.0, ema_decay=0.0, max_grad_norm=1e-3)
    before, after = Regression().network, run(tmp_path, config).network
    moved = (after[3].bias - before[3].bias).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05 / 4), rtol=1e-3, atol=0)


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_gradients_are_clipped_to_their_common_length(tmp_path, limit):
    config = settings(steps=1, max_grad_norm=limit, betas=(0.75, 0.9))
    run(tmp_path, config)
    moments, _ = read_tensors(latest_checkpoint(tmp_path) / "optimizer.safetensors")
    # After one step the first moment is (1 - beta) of the gradient that was used.
    first = [value.flatten() for name, value in moments.items() if name.startswith("AdamW/exp_avg/")]
    used = torch.cat(first).norm().item() / 0.25
    before = log(tmp_path)[0]["grad_norm"]
    assert before > 0.1
    assert used == pytest.approx(min(before, limit), rel=1e-4)


def test_bf16_means_autocast_of_the_forward_pass_and_float32_weights(tmp_path):
    kinds = []

    class Watched(Regression):
        def forward(self, batch, step):
            kinds.append(self.network(batch["x"]).dtype)
            return super().forward(batch, step)

    task = run(tmp_path / "a", settings(precision="bf16", steps=1), task=Watched())
    run(tmp_path / "b", settings(precision="fp32", steps=1), task=Watched())
    assert kinds == [torch.bfloat16, torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in task.parameters())


def test_blocks_are_compiled_once_and_only_where_asked_for(tmp_path):
    calls = []

    class Compiled(Regression):
        def compile_blocks(self):
            calls.append(1)

    run(tmp_path / "a", settings(compile=False, steps=1), task=Compiled())
    assert not calls
    run(tmp_path / "b", settings(compile=True, steps=2), task=Compiled())
    assert calls == [1]


# --- what stops a run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples(tmp_path, value):
    class Diverging(Regression):
        def forward(self, batch, step):
            losses = super().forward(batch, step)
            return losses | {"loss": losses["loss"] * value} if step == 3 else losses

    task = Diverging()
    with pytest.raises(SoftDecodeError, match="training diverged at step 4") as caught:
        run(tmp_path, settings(), task=task)
    assert str(task.seen[3].tolist()) in str(caught.value)
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3]
    assert all(torch.isfinite(parameter).all() for parameter in task.parameters())
    # The last whole checkpoint is that of the step before: the run can be resumed.
    assert latest_checkpoint(tmp_path).name == "step-00000003"
    straight = run(tmp_path / "straight", settings())
    assert_same_state(state(run(tmp_path, settings(), resume=True)), state(straight))


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    class Diverging(Regression):
        def forward(self, batch, step):
            # The square root's slope at 0 is infinite, its value 0.
            return {"loss": (self.network[3].bias - self.network[3].bias.detach()).abs().sqrt().sum()}

    with pytest.raises(SoftDecodeError, match="training diverged at step 1"):
        run(tmp_path, settings(), task=Diverging())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("warmup_steps", -1),
        ("decay_fraction", -0.1),
        ("decay_fraction", 1.1),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("max_grad_norm", 0.0),
        ("threads", -1),
        ("log_every", 0),
        ("checkpoint_every", 0),
        ("gradient_accumulation", 0),
        ("max_loss_ratio", 1.0),
        ("max_loss_ratio", -2.0),
        ("max_loss_ratio", math.inf),
        ("preview_every", -1),
    ],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(SoftDecodeError, match=f"out of range: {name}={value}"):
        settings(**{name: value})


def test_all_settings_out_of_range_are_named_at_once():
    with pytest.raises(SoftDecodeError, match="steps=0, ema_decay=2"):
        settings(steps=0, ema_decay=2)


# --- the rate -----------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_stays_and_falls_to_zero():
    config = LoopConfig(steps=1000, learning_rate=2.0, warmup_steps=100, decay_fraction=0.2)
    rates = [config.rate_at(step) for step in range(1000)]
    np.testing.assert_allclose(rates[:100], [2.0 * (step + 1) / 100 for step in range(100)])
    assert set(rates[100:801]) == {2.0}
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[800:]))
    np.testing.assert_allclose(rates[800:], [2.0 * (1 - math.sqrt((step - 800) / 200)) for step in range(800, 1000)])
    assert 0 < rates[-1] < 0.01


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("decay_fraction", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("warmup_steps", [0, 1, 20])
def test_the_rate_is_never_negative_nor_above_the_peak(steps, decay_fraction, warmup_steps):
    config = LoopConfig(steps=steps, learning_rate=0.5, warmup_steps=warmup_steps, decay_fraction=decay_fraction)
    assert all(0 < config.rate_at(step) <= 0.5 for step in range(steps))


def test_without_decay_the_rate_stays():
    config = LoopConfig(steps=10, learning_rate=0.5, warmup_steps=0, decay_fraction=0.0)
    assert {config.rate_at(step) for step in range(10)} == {0.5}


def test_a_cosine_falls_from_the_peak_to_zero():
    config = LoopConfig(steps=1000, learning_rate=2.0, warmup_steps=100, schedule="cosine")
    rates = [config.rate_at(step) for step in range(1000)]
    np.testing.assert_allclose(rates[:100], [2.0 * (step + 1) / 100 for step in range(100)])
    assert rates[100] == 2.0
    assert rates[550] == pytest.approx(1.0), "half of it half-way"
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[100:]))
    assert 0 < rates[-1] < 1e-4


def test_a_constant_rate_stays_whatever_the_decay():
    config = LoopConfig(steps=10, learning_rate=0.5, warmup_steps=2, decay_fraction=1.0, schedule="constant")
    assert [config.rate_at(step) for step in range(10)] == [0.25] + [0.5] * 9


# --- data order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_every_epoch_holds_every_sample_once(batch_size):
    order = torch.cat(list(sample_order(SAMPLES, batch_size, 5, 0, 21)))
    assert len(order) == 21 * batch_size
    for start in range(0, len(order) - SAMPLES + 1, SAMPLES):
        assert sorted(order[start : start + SAMPLES].tolist()) == list(range(SAMPLES))


@pytest.mark.parametrize("start", [1, 2, 5, 9])
def test_the_order_does_not_depend_on_where_it_starts(start):
    whole = list(sample_order(SAMPLES, 3, 5, 0, 10))
    rest = list(sample_order(SAMPLES, 3, 5, start, 10))
    assert [part.tolist() for part in rest] == [part.tolist() for part in whole[start:]]


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second, third = (part.tolist() for part in sample_order(50, 50, 0, 0, 3))
    assert len({tuple(first), tuple(second), tuple(third), tuple(range(50))}) == 4
    assert next(sample_order(50, 50, 1, 0, 1)).tolist() != first


# --- moving average -----------------------------------------------------------------------------------------------


def test_the_moving_average_is_the_formula():
    module = nn.Linear(1, 1, bias=False)
    values = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0]
    module.weight.data.fill_(values[0])
    average = MovingAverage(module, decay=0.3)
    expected = values[0]
    for update, value in enumerate(values[1:], 1):
        module.weight.data.fill_(value)
        average.update(module)
        decay = min(0.3, update / (update + 10))  # 1/11, 2/12, …: at the start it follows faster
        expected = decay * expected + (1 - decay) * value
        assert average.values["weight"].item() == pytest.approx(expected, rel=1e-6)
    average.copy_to(module)
    assert module.weight.item() == pytest.approx(expected, rel=1e-6)


def test_the_moving_average_is_of_trained_parameters_alone():
    task = Regression()
    average = MovingAverage(task, 0.9)
    assert set(average.values) == {"network.0.weight", "network.0.bias", "network.3.weight", "network.3.bias"}
    before = average.values["network.0.weight"].clone()
    task.network[0].weight.data += 1
    assert torch.equal(average.values["network.0.weight"], before), "a copy, not the parameter itself"


def test_endless_data_is_asked_for_so_many_samples_in_no_order(tmp_path, monkeypatch):
    """A shuffled order of so many as no data has would fill the memory."""
    asked = []

    class Stream(Regression):
        endless = True

        def batch(self, indices, generators):
            asked.append(indices.tolist())
            return super().batch(indices, generators)

    task = Stream()
    task.samples = 2**31
    monkeypatch.setattr(torch, "randperm", None)
    run(tmp_path, settings(steps=3, batch_size=5), task=task)
    assert asked == [[0, 1, 2, 3, 4]] * 3
