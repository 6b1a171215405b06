"""Estimates: known sizes of published models, sums by hand, and what each mode leaves on the device."""

import math

import pytest
import torch

from softdecode.errors import SoftDecodeError
from softdecode.memory.catalogue import BASES, VLMS
from softdecode.memory.estimate import estimate, model_bytes, working_memory
from softdecode.memory.quantize import quantizable_weights

BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def estimates():
    return {(e.offload, e.quantization): e for e in estimate("janus-pro-7b", "flux-fill")}


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_those_of_the_published_weights():
    """FLUX.1-dev has 11,901,408,320 parameters; Janus-Pro 7.42e9 with its unused parts, LlamaGen-XL 775e6."""
    assert parameters(BASES["flux-dev"](BF16).transformer) == 11_901_408_320
    fill = BASES["flux-fill"](BF16)
    assert parameters(fill.transformer) + fill.masked_weight.numel() == 11_901_408_320 + 320 * 3072
    assert parameters(BASES["sd3-medium"](BF16).transformer) == pytest.approx(2.03e9, rel=0.01)
    assert parameters(VLMS["janus-pro-7b"](BF16).module) == pytest.approx(7.42e9, rel=0.01)
    assert parameters(VLMS["llamagen-xl-256"](BF16).module["gpt"]) == pytest.approx(775e6, rel=0.01)
    assert parameters(VLMS["emu3-gen"](BF16).module) == pytest.approx(8.76e9, rel=0.01)
    assert parameters(VLMS["anole-7b"](BF16).module["model"]) == pytest.approx(7.08e9, rel=0.01)
    assert parameters(VLMS["llamagen-xl-256"](BF16).module["t5"]) == pytest.approx(1.22e9, rel=0.01)


def test_drawing_needs_the_key_value_cache(estimates):
    """2 rows × 30 layers × keys and values × (64 + 576) positions × 4096 channels × 2 bytes."""
    cache = 2 * 30 * 2 * 640 * 4096 * 2
    whole = estimates["model", "none"]
    working = whole.phases["draw"] - whole.vlm_weights
    assert cache < working < 1.3 * cache
    more = {e.offload: e for e in estimate("janus-pro-7b", "flux-fill", batch=3) if e.quantization == "none"}
    assert more["model"].phases["draw"] - whole.vlm_weights == pytest.approx(3 * working, rel=0.1)


def test_modes(estimates):
    nothing, model = estimates["none", "none"], estimates["model", "none"]
    assert nothing.peak > nothing.vlm_weights + nothing.base_weights
    assert model.peak < nothing.peak - nothing.vlm_weights + 1e9
    assert model.peak > model.base_weights
    assert estimates["model", "nf4"].peak < model.peak / 3
    assert estimates["sequential", "none"].peak < 3e9
    for e in estimates.values():
        assert e.peak == max(e.phases.values())


def test_weights_in_4_bits_take_four_and_a_half():
    vlm, base = VLMS["janus-pro-1b"](BF16), BASES["sd3-medium"](BF16)
    exact = model_bytes(vlm.module, base, "none")
    small = model_bytes(vlm.module, base, "nf4")
    for module, part, before, after in (
        (vlm.module, vlm.module, exact[0], small[0]),
        (base, base.transformer, exact[1], small[1]),
    ):
        ids = quantizable_weights(part)
        count = sum(weight.numel() for weight in module.parameters() if id(weight) in ids)
        assert count > 0.6 * parameters(part)
        assert before - after == pytest.approx(count * (2 - 4.5 / 8), rel=1e-6)


def test_larger_pictures_need_more_to_decode():
    small, large = (
        working_memory(VLMS[f"llamagen-xl-{size}"](BF16), BASES["flux-dev"](BF16), 1, BF16) for size in (256, 512)
    )
    assert all(large[phase] > 1.5 * small[phase] for phase in small)
    assert math.isclose(large["VAE decode"], 4 * small["VAE decode"], rel_tol=0.5)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(SoftDecodeError, match="VLM 'gpt-5' on record; known are janus-pro-1b"):
        estimate("gpt-5", "flux-fill")
    with pytest.raises(SoftDecodeError, match="base 'sdxl' on record; known are flux-fill"):
        estimate("janus-pro-1b", "sdxl")
    with pytest.raises(SoftDecodeError, match="at least 1, got 0"):
        estimate("janus-pro-1b", "flux-fill", batch=0)
