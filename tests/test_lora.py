"""LoRA decoders: nothing before training, W + (alpha / rank)·B·A after it, and never on a shared base."""

import copy
import sys

import pytest
import torch

from softdecode.calibration import Calibration
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import DecoderConfig
from softdecode.errors import SoftDecodeError
from softdecode.files import read_tensors, tensor_sha256, write_tensors
from softdecode.lora import add_lora
from softdecode.memory.quantize import quantizable_weights

RANK, ALPHA = 2, 3.0
GRID = (4, 4)


@pytest.fixture
def codebook(make_codebook):
    return make_codebook()


@pytest.fixture
def make_decoder(make_base, codebook):
    def make(trained="lora", perturbed=True, base=None):
        lora = {"lora_rank": RANK, "lora_alpha": ALPHA} if trained == "lora" else {}
        config = DecoderConfig(
            mode="soft", code_dim=4, hidden_channels=8, image_size=(16, 16), base="base", trained=trained,
            codebook_sha256=tensor_sha256(codebook), vlm="test", steps=2, **lora,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(1)
            decoder = DistributionDecoder(config, base or make_base(), codebook, Calibration())
            if perturbed:
                for name, weight in decoder.named_parameters():
                    if ".lora_" in name:
                        weight.data.normal_(std=0.5)
        return decoder.eval().requires_grad_(False)

    return make


def velocity(base):
    generator = torch.Generator().manual_seed(2)
    tokens, condition = torch.randn(2, 16, 8, generator=generator), torch.randn(2, 16, 16, generator=generator)
    return base.velocity(tokens, torch.tensor([0.3, 0.8]), condition, GRID)


def test_untrained_lora_changes_nothing(make_decoder, make_base):
    torch.testing.assert_close(velocity(make_decoder(perturbed=False).base), velocity(make_base()))


def test_lora_is_the_merged_matrix(make_decoder, make_base):
    """By hand, on the plain transformer: W + (alpha / rank)·B·A for q, k and v of each block."""
    decoder, merged = make_decoder(), make_base()
    state = dict(decoder.base.transformer.named_parameters())
    for block, layers in enumerate(merged.transformer.single_transformer_blocks):
        for kind in ("to_q", "to_k", "to_v"):
            name = f"single_transformer_blocks.{block}.attn.{kind}"
            b, a = state[f"{name}.lora_B.default.weight"], state[f"{name}.lora_A.default.weight"]
            assert a.shape == (RANK, 16)
            getattr(layers.attn, kind).weight.data += ALPHA / RANK * (b @ a)
    torch.testing.assert_close(velocity(decoder.base), velocity(merged), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(velocity(merged), velocity(make_base()), atol=1e-2)


def test_loading_leaves_the_shared_base_as_it_is(make_decoder, make_base, codebook, make_distribution, tmp_path):
    decoder, base = make_decoder(), make_base()
    decoder.save_pretrained(tmp_path / "decoder", "", dtype=torch.float32)
    before = copy.deepcopy(base.state_dict())
    loaded = DistributionDecoder.from_pretrained(tmp_path / "decoder", base=base)
    again = DistributionDecoder.from_pretrained(tmp_path / "decoder", base=base)
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(base.state_dict()[name], before[name]) for name in before)
    distribution = make_distribution(codebook)
    expected = decoder.denoise(distribution, seeds=[1, 2, 3])
    for found in (loaded, again):
        assert torch.equal(found.denoise(distribution, seeds=[1, 2, 3]), expected)


def test_another_rank_in_the_file_is_refused(make_decoder, make_base, tmp_path):
    make_decoder().save_pretrained(tmp_path / "decoder", "")
    path = tmp_path / "decoder" / "model.safetensors"
    tensors, _ = read_tensors(path)
    name = "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"
    write_tensors(path, {**tensors, name: tensors[name].repeat(2, 1)})
    with pytest.raises(SoftDecodeError, match=r"misshaped: .*to_q\.lora_A\.weight is \[4, 16\], expected \[2, 16\]"):
        DistributionDecoder.from_pretrained(tmp_path / "decoder", base=make_base())


@pytest.mark.parametrize("trained", ["adapter", "lora"])
def test_a_base_with_another_decoders_lora_is_refused(trained, make_decoder):
    base = make_decoder().base
    with pytest.raises(SoftDecodeError, match="already has LoRA layers"):
        make_decoder(trained, base=base)


@pytest.mark.parametrize(
    ("trained", "rank", "alpha"),
    [("lora", None, None), ("lora", 0, 1.0), ("lora", 4, 0.0), ("lora", 4, float("nan")), ("attention", 4, 4.0)],
)
def test_rank_and_scale_belong_to_lora(trained, rank, alpha):
    with pytest.raises(SoftDecodeError, match="lora_rank"):
        DecoderConfig(
            mode="soft", code_dim=4, hidden_channels=8, image_size=(16, 16), base="base", codebook_sha256="", vlm="v",
            trained=trained, lora_rank=rank, lora_alpha=alpha,
        )  # fmt: skip


def test_without_peft_the_extra_is_named(make_base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SoftDecodeError, match=r"softdecode\[train\]"):
        add_lora(make_base().transformer, 2, 2.0)


def test_lora_matrices_are_never_quantized(make_decoder, make_base):
    transformer = make_decoder().base.transformer
    chosen = quantizable_weights(transformer)
    names = {name for name, weight in transformer.named_parameters() if id(weight) in chosen}
    plain = make_base().transformer
    ids = quantizable_weights(plain)
    assert {n.replace(".base_layer", "") for n in names} == {n for n, w in plain.named_parameters() if id(w) in ids}
