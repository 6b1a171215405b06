"""NF4 against bitsandbytes' own rounding; what is quantized and what is not."""

import logging
import sys

import pytest
import torch
from torch import nn
from transformers import T5Config, T5EncoderModel

from softdecode.errors import SoftDecodeError
from softdecode.memory.quantize import quantizable_weights, quantize_nf4
from softdecode.pipeline import SoftDecodePipeline


@pytest.fixture
def bitsandbytes():
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    return pytest.importorskip("bitsandbytes")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(64, 64)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))])

    def forward(self, x):
        hidden = self.embed(x)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return hidden


def test_the_result_is_that_of_weights_rounded_to_nf4(bitsandbytes):
    torch.manual_seed(0)
    model = Model().requires_grad_(False)
    rounded = Model().requires_grad_(False)
    rounded.load_state_dict(model.state_dict())
    for layer in (rounded.layers[0][0], rounded.layers[0][2]):
        packed, state = bitsandbytes.functional.quantize_4bit(layer.weight.data, quant_type="nf4")
        layer.weight.data = bitsandbytes.functional.dequantize_4bit(packed, state)
    x = torch.randn(5, 64)
    exact = model(x)
    assert quantize_nf4(model, torch.float32) == 2
    model.to("cpu")
    assert model.layers[0][0].weight.numel() == 128 * 64 // 2, "two weights in a byte"
    assert type(model.embed) is nn.Linear
    torch.testing.assert_close(model(x), rounded(x), rtol=0, atol=1e-3)  # its kernel adds in another order
    assert (model(x) - exact).abs().max() > 1e-2


def test_layers_that_transformers_keeps_in_float32_stay(bitsandbytes):
    config = T5Config(
        d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", vocab_size=9
    )
    model = T5EncoderModel(config).eval().requires_grad_(False)
    ids = torch.arange(6)[None]
    before = model(ids).last_hidden_state
    count = quantize_nf4(model, torch.float32)
    names = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if type(part) is nn.Linear}
    assert names == {"wo"}
    assert count == 2 * (4 + 2), "q, k, v, o and both of the gated layers in each block"
    model.to("cpu")
    after = model(ids).last_hidden_state
    assert torch.isfinite(after).all()
    assert (after - before).norm() < 0.5 * before.norm()


def test_what_would_be_quantized_is_what_is():
    model = Model()
    assert quantizable_weights(model) == {id(model.layers[0][0].weight), id(model.layers[0][2].weight)}


def test_vlm_and_base_are_quantized_separately(bitsandbytes):
    exact = SoftDecodePipeline.from_pretrained(device="cpu")
    kinds = {}
    for which in ("vlm", "base"):
        pipe = SoftDecodePipeline.from_pretrained(device="cpu", **{f"quantize_{which}": "nf4"})
        transformer = pipe.decoder.base.transformer
        kinds[which] = [
            sum(isinstance(part, bitsandbytes.nn.Linear4bit) for part in module.modules())
            for module in (pipe.vlm, transformer)
        ]
        distribution = exact.encode(torch.zeros(1, 3, 64, 64))
        found = pipe.decode(distribution, seeds=[1], num_inference_steps=2).float()
        expected = exact.decode(distribution, seeds=[1], num_inference_steps=2).float()
        if which == "vlm":
            assert torch.equal(found, expected), "the decoder is untouched"
            assert pipe.vlm.sample(["noto red apple"], seeds=[1]).tokens.shape == (1, 8, 8)
        else:
            assert 0 < (found - expected).abs().mean() < 25
    assert kinds["vlm"][0] > 0
    assert kinds["vlm"][1] == 0
    assert kinds["base"][0] == 0
    assert kinds["base"][1] > 0


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SoftDecodeError, match=r"install softdecode\[quant\]"):
        quantize_nf4(Model(), torch.float32)
