"""FLUX's original naming: against diffusers' own converters at the real sizes, and end to end at a tiny one."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import load_file, save_file

from softdecode.base import FluxBase, load_base
from softdecode.base.flux_single_file import (
    converted_flux,
    flux_config,
    load_flux_file,
    load_vae_file,
    vae_config,
)
from softdecode.errors import SoftDecodeError
from softdecode.ldm_naming import converted_ldm


def flux_shapes(width, head, double, single, channels, text, pooled, guidance, out_channels):
    """Names and shapes of an original FLUX transformer."""
    shapes = {"img_in": (width, channels), "txt_in": (width, text), "final_layer.linear": (out_channels, width)}
    shapes["final_layer.adaLN_modulation.1"] = (2 * width, width)
    embedders = {"time_in": 256, "vector_in": pooled} | ({"guidance_in": 256} if guidance else {})
    for name, size in embedders.items():
        shapes |= {f"{name}.in_layer": (width, size), f"{name}.out_layer": (width, width)}
    scales = {}
    for i in range(double):
        for stream in ("img", "txt"):
            at = f"double_blocks.{i}.{stream}"
            shapes |= {
                f"{at}_mod.lin": (6 * width, width),
                f"{at}_attn.qkv": (3 * width, width),
                f"{at}_attn.proj": (width, width),
                f"{at}_mlp.0": (4 * width, width),
                f"{at}_mlp.2": (width, 4 * width),
            }
            scales |= {f"{at}_attn.norm.{kind}_norm.scale": (head,) for kind in ("query", "key")}
    for i in range(single):
        at = f"single_blocks.{i}"
        shapes |= {
            f"{at}.modulation.lin": (3 * width, width),
            f"{at}.linear1": (7 * width, width),
            f"{at}.linear2": (width, 5 * width),
        }
        scales |= {f"{at}.norm.{kind}_norm.scale": (head,) for kind in ("query", "key")}
    weights = {f"{name}.weight": shape for name, shape in shapes.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in shapes.items()} | scales


def vae_shapes(widths, latents, layers=2):
    """Names and shapes of an original VAE."""
    shapes = {}

    def conv(name, inside, outside, kernel=3):
        shapes[f"{name}.weight"] = (outside, inside, kernel, kernel)
        shapes[f"{name}.bias"] = (outside,)

    def norm(name, width):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def block(name, inside, outside):
        norm(f"{name}.norm1", inside)
        conv(f"{name}.conv1", inside, outside)
        norm(f"{name}.norm2", outside)
        conv(f"{name}.conv2", outside, outside)
        if inside != outside:
            conv(f"{name}.nin_shortcut", inside, outside, 1)

    for side, first, last in (("encoder", 3, 2 * latents), ("decoder", latents, 3)):
        conv(f"{side}.conv_in", first, widths[0] if side == "encoder" else widths[-1])
        block(f"{side}.mid.block_1", widths[-1], widths[-1])
        block(f"{side}.mid.block_2", widths[-1], widths[-1])
        norm(f"{side}.mid.attn_1.norm", widths[-1])
        for kind in ("q", "k", "v", "proj_out"):
            conv(f"{side}.mid.attn_1.{kind}", widths[-1], widths[-1], 1)
        norm(f"{side}.norm_out", widths[-1] if side == "encoder" else widths[0])
        conv(f"{side}.conv_out", widths[-1] if side == "encoder" else widths[0], last)
    for level, width in enumerate(widths):
        before = widths[max(level - 1, 0)]
        for number in range(layers):
            block(f"encoder.down.{level}.block.{number}", before if number == 0 else width, width)
        if level < len(widths) - 1:
            conv(f"encoder.down.{level}.downsample.conv", width, width)
        above = widths[min(level + 1, len(widths) - 1)]
        for number in range(layers + 1):
            block(f"decoder.up.{level}.block.{number}", above if number == 0 else width, width)
        if level:
            conv(f"decoder.up.{level}.upsample.conv", width, width)
    return shapes


def labelled(shapes):
    """A tensor for each name, whose rows tell where they come from, without the memory of a real one."""
    found = {}
    for place, (name, shape) in enumerate(shapes.items()):
        rows = torch.arange(shape[0]) + place * 100_000
        found[name] = rows.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    return found


def same_rows(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.shape == expected[name].shape, name
        assert torch.equal(value.flatten(1)[:, 0] if value.ndim > 1 else value, _first(expected[name])), name


def _first(value):
    return value.flatten(1)[:, 0] if value.ndim > 1 else value


# dev; schnell (no guidance); Fill (384 channels); widths are FLUX.1's, layers fewer for speed
@pytest.mark.parametrize(("guidance", "channels"), [(True, 64), (False, 64), (True, 384)])
def test_a_transformer_is_renamed_as_diffusers_does(guidance, channels):
    shapes = flux_shapes(3072, 128, 2, 3, channels, 4096, 768, guidance, 64)
    expected = convert_flux_transformer_checkpoint_to_diffusers(labelled(shapes))
    same_rows(
        dict(part for name, value in labelled(shapes).items() for part in converted_flux(name, value, 3072)), expected
    )
    config = flux_config({name: torch.Size(shape) for name, shape in shapes.items()})
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert config["axes_dims_rope"] == (16, 56, 56)
    assert config["guidance_embeds"] == guidance
    assert config["num_attention_heads"] == 24


def test_a_vae_is_renamed_as_diffusers_does():
    shapes = vae_shapes((128, 256, 512, 512), 16)
    config = vae_config({name: torch.Size(shape) for name, shape in shapes.items()})
    expected = convert_ldm_vae_checkpoint(labelled(shapes), config)
    same_rows(dict(converted_ldm(name, value, 4) for name, value in labelled(shapes).items()), expected)
    with torch.device("meta"):
        model = AutoencoderKL(**config)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert (config["shift_factor"], config["scaling_factor"]) == (0.1159, 0.3611)


@pytest.fixture
def folder(tmp_path):
    """Tiny files in the original naming: a Fill transformer, and its VAE of stride 2 and 4 channels."""
    generator = torch.Generator().manual_seed(0)

    def random(shapes):
        return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    save_file(random(flux_shapes(32, 16, 1, 1, 48, 12, 6, True, 16)), tmp_path / "flux.safetensors")
    save_file(random(vae_shapes((8, 16), 4)), tmp_path / "ae.safetensors")
    return tmp_path


def test_a_single_file_runs(folder):
    base = load_base(folder / "flux.safetensors")
    assert isinstance(base, FluxBase)
    assert base.masked_weight is not None, "48 = 16 noisy, 16 masked-image and 16 mask channels"
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in base.parameters())
    official = load_file(folder / "flux.safetensors")
    assert torch.equal(base.transformer.x_embedder.weight, official["img_in.weight"][:, :16])
    single = base.transformer.single_transformer_blocks[0]
    assert torch.equal(single.proj_mlp.weight, official["single_blocks.0.linear1.weight"][96:])
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 4, 16, generator=generator)
    found = base.velocity(tokens, torch.tensor([0.2, 0.7]), torch.zeros(2, 4, 32), (2, 2))
    assert found.shape == tokens.shape
    assert torch.isfinite(found).all()


def test_missing_unexpected_and_misshaped_weights_are_listed(folder):
    for name, load in (("flux.safetensors", load_flux_file), ("ae.safetensors", load_vae_file)):
        weights = load_file(folder / name)
        victim = "final_layer.linear.bias" if name.startswith("flux") else "encoder.conv_in.bias"
        for changed, expected in (
            ({k: v for k, v in weights.items() if k != victim}, "1 missing"),
            (weights | {"stranger.weight": torch.zeros(2)}, "1 unexpected: stranger.weight"),
            (weights | {victim: torch.zeros(5)}, r"1 misshaped: .* is \[5\]"),
        ):
            save_file(changed, folder / "changed.safetensors")
            with pytest.raises(SoftDecodeError, match=expected):
                load(folder / "changed.safetensors", torch.float32)


def test_files_of_something_else_are_refused(folder, tmp_path):
    with pytest.raises(SoftDecodeError, match="no FLUX transformer"):
        load_flux_file(folder / "ae.safetensors", torch.float32)
    with pytest.raises(SoftDecodeError, match="no VAE"):
        load_vae_file(folder / "flux.safetensors", torch.float32)
    with pytest.raises(SoftDecodeError, match="no file"):
        load_base(tmp_path / "absent.safetensors")
    (folder / "torn.safetensors").write_bytes((folder / "flux.safetensors").read_bytes()[:5000])
    with pytest.raises(SoftDecodeError, match="damaged"):
        load_base(folder / "torn.safetensors")
    (folder / "ae.safetensors").unlink()
    with pytest.raises(SoftDecodeError, match="no VAE beside it"):
        load_base(folder / "flux.safetensors")


def test_the_dtype_asked_for_is_given(folder):
    base = load_base(folder / "flux.safetensors", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in base.parameters()} == {torch.bfloat16}
    assert json.dumps(dict(base.transformer.config)), "the config can be stored"
