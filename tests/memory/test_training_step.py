"""A step without data: the same peak as with data, and the paper's decoder at its real size."""

import pytest
import torch

from softdecode.memory.catalogue import BASES
from softdecode.memory.peak import PeakMemory, model_tensors
from softdecode.memory.training_step import StepSketch
from softdecode.trained import trained_parameters
from softdecode.training.presets import PRESETS

# Said once a process, by torch: RMSNorms under autocast have bfloat16 activations and float32 weights.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")


def real_peak(task, sample, pictures, precision):
    """The peak of a micro-batch on real tensors, gradients being there already."""
    batch = {name: value.expand(pictures, *value.shape[1:]).clone() for name, value in sample.items()}
    for weight in task.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    gradients = [weight.grad for weight in task.parameters() if weight.grad is not None]
    task.train()
    with PeakMemory([*model_tensors(task), *gradients, *batch.values()]) as memory:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            losses = task(batch, 0)
        losses["loss"].backward()
    assert losses["loss"].isfinite()
    return memory.peak


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(("trained", "precision"), [("attention", "bf16"), ("lora", "bf16"), ("all", "fp32")])
def test_the_peak_is_that_of_a_step_with_data(trained, precision, checkpointed, make_job, make_models):
    job = make_job(trained, precision)
    base, tokenizer = make_models("meta", job.frozen_dtype)
    sketch = StepSketch(job, base, tokenizer)
    found = sketch.run(3, checkpointed=checkpointed)

    base, tokenizer = make_models("cpu", job.frozen_dtype)
    real = StepSketch.task_of(job, base, tokenizer)
    if checkpointed:
        real.checkpoint_activations()
    # In bfloat16 real layer norms keep their statistics in another dtype than those without data: one number a token.
    assert found == pytest.approx(real_peak(real, sketch.sample, 3, precision), rel=0 if precision == "fp32" else 1e-3)


def test_recomputing_saves_memory_and_pictures_cost_it(make_job, make_models):
    sketch = StepSketch(make_job(), *make_models("meta", torch.bfloat16))
    sketch.run(1, checkpointed=False)  # a constant of the base is computed once
    kept, recomputed = (sketch.run(4, checkpointed=value) for value in (False, True))
    assert recomputed < 0.7 * kept
    assert sketch.run(8, checkpointed=False) > 1.7 * kept
    assert sketch.run(4, checkpointed=False) == kept, "checkpointing can be turned off again"


@pytest.fixture
def janus_pro(make_tokenizer):
    return make_tokenizer(codes=16_384, dim=8, side=24, pixels=384, device="meta")


def test_the_papers_decoder_takes_a_step_at_its_real_size(janus_pro):
    """FLUX.1-Fill for Janus-Pro: the loss reaches all that is trained, through the embedder, and nothing else."""
    job = PRESETS["janus-pro-flux-fill"]["decoder"]()
    assert job.loop.checkpoint_activations
    sketch = StepSketch(job, BASES["flux-fill"](torch.bfloat16), janus_pro)
    for weight in sketch.task.parameters():
        weight.grad = None
    peak = sketch.run(1, checkpointed=True)
    trained = trained_parameters(sketch.decoder)
    found = {id(weight) for weight in sketch.task.parameters() if weight.grad is not None}
    assert found == {id(weight) for weight in trained.values()}
    assert all(weight.grad.dtype == weight.dtype == torch.float32 for weight in trained.values())
    assert {weight.dtype for weight in sketch.task.parameters() if id(weight) not in found} == {torch.bfloat16}
    attention = (19 * 4 + 38 * 3) * 3072**2  # q, k and v in every block, the output's projection in double ones
    assert sum(weight.numel() for weight in trained.values()) == pytest.approx(attention, rel=2e-3)
    assert peak > 4 * attention, "the gradients came with the step"


def test_lora_at_the_papers_size_is_a_twentieth_of_that(janus_pro):
    job = PRESETS["janus-pro-flux-fill-lora"]["decoder"]()
    sketch = StepSketch(job, BASES["flux-fill"](torch.bfloat16), janus_pro)
    count = sum(weight.numel() for weight in trained_parameters(sketch.decoder).values())
    assert count == pytest.approx((19 * 4 + 38 * 3) * 2 * 64 * 3072, rel=2e-2)
