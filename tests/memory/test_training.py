"""Estimates of training: the published counts, sums by hand, and which micro-batch is chosen."""

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.memory import training
from softdecode.memory.catalogue import BASES, VLMS, janus
from softdecode.memory.training import LAYOUTS, _micro_batch, estimate_training
from softdecode.memory.training_state import training_state
from softdecode.trained import is_text, is_trained


@pytest.fixture(scope="module")
def tiny(make_models):
    """The names of a tiny VLM with the real tokenizer, and of a tiny base for small pictures."""

    def sketch(dtype):
        vlm = janus(64, 128, 2, 2, dtype)
        patch.setattr(type(vlm.tokenizer), "image_size", (16, 16))
        patch.setattr(type(vlm.tokenizer), "grid", (4, 4))
        return vlm

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VLMS, "tiny", sketch)
        patch.setitem(BASES, "tiny", lambda dtype: make_models("meta", dtype)[0])
        yield "tiny", "tiny"


@pytest.fixture(scope="module")
def estimates(tiny, make_job):
    return {trained: estimate_training(make_job(trained), *tiny) for trained in ("attention", "lora")}


def test_the_papers_counts():
    """11.9B parameters, 2.5B of them attention by name; 0.72B of these are for text, which is excluded."""
    transformer = BASES["flux-dev"](torch.bfloat16).transformer
    sizes = {name: weight.numel() for name, weight in transformer.named_parameters()}
    assert sum(sizes.values()) == 11_901_408_320
    named = sum(size for name, size in sizes.items() if ".attn." in name)
    text = sum(size for name, size in sizes.items() if ".attn." in name and is_text(name))
    trained = sum(size for name, size in sizes.items() if is_trained(name, "attention"))
    assert named == pytest.approx(2.51e9, rel=1e-3)
    assert text == pytest.approx(4 * 19 * 3072**2, rel=1e-3)
    assert trained == named - text


def test_rows_add_up(estimates, make_job):
    job, estimate = make_job(), estimates["attention"]
    assert [(row.parallel, row.processes) for row in estimate.rows[::2]] == list(LAYOUTS)
    for row in estimate.rows:
        assert row.total == row.state.total + row.activations
        assert row.micro_batch * row.accumulation * row.processes == job.loop.batch_size
    for recomputed, kept in zip(estimate.rows[::2], estimate.rows[1::2], strict=True):
        assert (recomputed.checkpointed, kept.checkpointed) == (True, False)
        assert recomputed.activations < kept.activations
        assert recomputed.state == kept.state


@pytest.mark.parametrize(
    ("share", "room", "expected"),
    [
        (32, 1000, (8, 800)),
        (32, 799, (4, 400)),
        (32, 100, (1, 100)),
        (32, 99, (1, 100)),  # it does not fit, and the report says so
        (4, 1000, (4, 400)),  # a process's share is no larger
        (6, 1000, (1, 100)),  # and a micro-batch divides it
    ],
)
def test_the_largest_micro_batch_that_fits_is_chosen(share, room, expected):
    assert _micro_batch(share, room, lambda pictures: 100 * pictures) == expected


@pytest.mark.parametrize("trained", ["attention", "lora"])
def test_counts(trained, estimates, make_models):
    counts = estimates[trained].counts
    base, _ = make_models("cpu", torch.float32)
    whole = sum(weight.numel() for weight in base.transformer.parameters()) + base.masked_weight.numel()
    assert counts.transformer == whole
    attention = {name: w.numel() for name, w in base.transformer.named_parameters() if ".attn." in name}
    assert counts.attention + counts.attention_text == sum(attention.values())
    if trained == "attention":
        assert counts.trained == counts.attention + counts.condition
    else:
        rank, width, projections = 2, 32, 2 * 4 + 3 * 3
        assert counts.trained == projections * rank * 2 * width + counts.condition


def test_encoders_take_more_for_more_pictures_and_teacher_forcing_takes_the_vlm(estimates):
    proxy, forced = estimates["attention"].encoders
    assert 0 < proxy.weights < forced.weights
    for row in (proxy, forced):
        assert row.working[8] > 4 * row.working[1] > 0
    assert forced.working[8] > proxy.working[8]


def test_every_vlm_on_record_can_be_teacher_forced():
    for name, make in VLMS.items():
        if name not in ("janus-pro-7b", "llamagen-xl-512"):  # another size of one that is here
            make(torch.bfloat16).force(1)


def test_what_is_not_on_record_or_cannot_be_shared_is_refused(tiny, make_job, monkeypatch):
    with pytest.raises(SoftDecodeError, match="VLM 'gpt-5' on record; known are janus-pro-1b"):
        estimate_training(make_job(), "gpt-5", "flux-fill")
    with pytest.raises(SoftDecodeError, match="base 'sdxl' on record; known are flux-fill"):
        estimate_training(make_job(), "janus-pro-7b", "sdxl")
    monkeypatch.setattr(training, "LAYOUTS", (("ddp", 3),))
    with pytest.raises(SoftDecodeError, match="3 processes cannot share a batch of 32"):
        estimate_training(make_job(), *tiny)


def test_states_are_those_of_the_job(estimates, make_job, make_models, make_tokenizer):
    job = make_job("lora")
    base, _ = make_models("cpu", job.frozen_dtype)
    decoder = job.decoder(base, make_tokenizer(codes=16_384, dim=8), "vlm")
    for row in estimates["lora"].rows:
        assert row.state == training_state(decoder, row.parallel, row.processes)
