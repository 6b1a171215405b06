"""Offloading: where weights are before, while and after they compute."""

import pytest
import torch
from torch import nn

from softdecode.errors import SoftDecodeError
from softdecode.memory.offload import offload_blocks
from softdecode.pipeline import SoftDecodePipeline


@pytest.fixture
def make_pipe():
    def make(**settings):
        return SoftDecodePipeline.from_pretrained(device="cpu", **settings)

    return make


class Spy(nn.Linear):
    """Notes where its weight is when it computes."""

    def forward(self, x):
        self.seen = [*getattr(self, "seen", []), self.weight.device.type]
        return super().forward(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)
        self.head_again = self.head
        self.layers = nn.ModuleList([nn.Sequential(Spy(4, 4), nn.ReLU()) for _ in range(3)])
        self.register_buffer("offset", torch.ones(2))

    def forward(self, x):
        hidden = self.embed(x)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden) + self.offset


def test_layers_come_to_the_device_to_compute_and_go_again():
    model = Model().requires_grad_(False)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    offload_blocks(model, torch.device("cpu"))
    for _ in range(2):
        assert {p.device.type for p in model.layers.parameters()} == {"meta"}, "nothing is on the device"
        assert torch.equal(model(x), expected)
    assert all(layer[0].seen == ["cpu"] * 3 for layer in model.layers)
    assert {p.device.type for p in (*model.embed.parameters(), *model.head.parameters(), model.offset)} == {"cpu"}


def test_what_is_no_block_moves_to_the_device_and_stays_tied():
    model = Model().requires_grad_(False)
    offload_blocks(model, torch.device("meta"))
    assert {p.device.type for p in (*model.embed.parameters(), *model.head.parameters(), model.offset)} == {"meta"}
    assert model.head_again.weight is model.head.weight


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_pictures_stay_the_same(offload, make_pipe):
    prompt = ["noto red apple", "twemoji red heart"]
    expected = make_pipe()(prompt, num_inference_steps=2, output_type="pt", return_vq=True)
    pipe = make_pipe(offload=offload)
    found = pipe(prompt, num_inference_steps=2, output_type="pt", return_vq=True)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.vq_images, expected.vq_images)
    reconstructed = pipe.reconstruct(expected.images[:1].float() / 127.5 - 1, num_inference_steps=1)
    assert len(reconstructed.images) == 1


def test_two_phases_never_have_both_models_on_the_device(make_pipe, monkeypatch):
    pipe = make_pipe()
    where = {"vlm": "cpu", "decoder": "cpu"}
    history = []
    for name in where:
        module = getattr(pipe, name)
        original = type(module).to

        def to(self, device, _name=name, _original=original):
            # "cpu" means offloaded; the phase's device is the CPU, too, but as a torch.device
            where[_name] = "device" if isinstance(device, torch.device) else device
            history.append(dict(where))
            return _original(self, device)

        monkeypatch.setattr(type(module), "to", to)
    pipe.enable_model_cpu_offload(device="cpu")
    pipe("noto red apple", num_inference_steps=1)
    assert {"vlm": "device", "decoder": "cpu"} in history
    assert history[-1] == {"vlm": "cpu", "decoder": "device"}
    assert {"vlm": "device", "decoder": "device"} not in history


def test_tiling_is_the_vaes_own(make_pipe):
    pipe = make_pipe()
    assert not pipe.decoder.base.vae.use_tiling
    pipe.enable_vae_tiling()
    assert pipe.decoder.base.vae.use_tiling


def test_unknown_settings_and_impossible_pairs_are_refused(make_pipe):
    with pytest.raises(SoftDecodeError, match="unknown offload 'disk'; expected none, model, sequential"):
        make_pipe(offload="disk")
    with pytest.raises(SoftDecodeError, match="unknown quantize_base 'int3'; expected none, nf4"):
        make_pipe(quantize_base="int3")
    with pytest.raises(SoftDecodeError, match="layer by layer; use the offload mode model"):
        make_pipe(offload="sequential", quantize_vlm="nf4")
