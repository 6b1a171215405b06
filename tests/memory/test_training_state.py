"""What a process holds, against the bytes of a real training step on the CPU."""

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.memory.peak import tensor_bytes
from softdecode.memory.training_state import training_state
from softdecode.trained import trained_parameters
from softdecode.training.average import MovingAverage
from softdecode.training.optimizer import build_optimizers

# Said once a process, by torch: RMSNorms under autocast have bfloat16 activations and float32 weights.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")


@pytest.fixture
def make_decoder(make_job, make_models):
    def make(trained, device="cpu"):
        base, tokenizer = make_models("cpu", torch.bfloat16)
        decoder = make_job(trained).decoder(base, tokenizer, "vlm")
        return decoder.to(device)

    return make


@pytest.mark.parametrize("trained", ["adapter", "attention", "lora", "all"])
def test_the_arithmetic_is_that_of_a_real_step(trained, make_decoder, make_codebook, make_distribution):
    decoder = make_decoder(trained)
    optimizer = build_optimizers(
        "adamw", decoder.parameters(), [], learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.01
    )
    average = MovingAverage(decoder, 0.99)
    with torch.autocast("cpu", torch.bfloat16):
        condition = decoder.condition_tokens(make_distribution(make_codebook())).float()
        decoder.base.velocity(torch.randn(3, 16, 8), torch.rand(3), condition, (4, 4)).float().sum().backward()
    optimizer.step()
    found = training_state(decoder)
    weights = [*decoder.parameters(), *decoder.buffers()]
    assert found.weights == sum(tensor.numel() * tensor.element_size() for tensor in weights)
    assert found.gradients == tensor_bytes(w.grad for w in decoder.parameters() if w.grad is not None)
    state = [entry for member in optimizer.members for entry in member.state.values()]
    assert found.optimizer == tensor_bytes(entry[kind] for entry in state for kind in ("exp_avg", "exp_avg_sq"))
    assert found.average == tensor_bytes(average.values.values())
    assert found.communication == 0
    assert found.total == found.weights + found.gradients + found.optimizer + found.average


def test_without_data_it_is_the_same(make_decoder):
    assert training_state(make_decoder("attention", "meta")) == training_state(make_decoder("attention"))


def test_ddp_holds_the_gradients_twice_and_nothing_less(make_decoder):
    decoder = make_decoder("attention")
    single, ddp = training_state(decoder), training_state(decoder, "ddp", 4)
    assert ddp.communication == single.gradients
    assert ddp.total == single.total + single.gradients


def test_fsdp2_shares_out_blocks_and_what_is_trained(make_decoder):
    decoder = make_decoder("attention")
    single, shared = training_state(decoder), training_state(decoder, "fsdp2", 4)
    transformer, trained = decoder.base.transformer, {id(w) for w in trained_parameters(decoder).values()}
    layers = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    in_blocks = {id(w) for layer in layers for w in layer.parameters()}
    tensors = [*decoder.parameters(), *decoder.buffers()]
    whole = tensor_bytes(t for t in tensors if id(t) not in in_blocks | trained)
    assert tensor_bytes(decoder.base.vae.parameters()) < whole < single.weights
    assert shared.weights == pytest.approx(whole + (single.weights - whole) / 4, abs=1)
    for name in ("gradients", "optimizer", "average"):
        assert getattr(shared, name) == pytest.approx(getattr(single, name) / 4, abs=2)
    # Gathered: the condition encoder, and twice the largest block, with the gradients of what is trained.
    gathered = [
        tensor_bytes(layer.parameters()) + sum(4 * w.numel() for w in layer.parameters() if id(w) in trained)
        for layer in layers
    ]
    condition = tensor_bytes(decoder.condition.parameters())
    assert shared.communication == 2 * condition + 2 * max(gathered)


@pytest.mark.parametrize(("parallel", "world"), [("single", 2), ("ddp", 0)])
def test_impossible_numbers_of_processes_are_refused(parallel, world, make_decoder):
    with pytest.raises(SoftDecodeError, match=f"{world} processes"):
        training_state(make_decoder("adapter"), parallel, world)
