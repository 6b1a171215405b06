"""The decoder on a tiny base: the pretrained model before training, reproducible pictures, and strict files."""

import json
from dataclasses import replace

import pytest
import torch

from softdecode import flow
from softdecode.calibration import Calibration
from softdecode.conditioning import condition_inputs
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import DecoderConfig, read_config
from softdecode.errors import SoftDecodeError
from softdecode.files import read_tensors, tensor_sha256, write_tensors
from softdecode.latents import decode_latents, encode_images, pack, unpack
from softdecode.seeds import image_noise
from softdecode.trained import trained_parameters

GRID = (4, 4)
PARTS = ("adapter", "attention", "lora", "all")
CALIBRATION = Calibration(kappa=20.0, epsilon=0.01)


@pytest.fixture
def codebook(make_codebook):
    return make_codebook()


@pytest.fixture
def make_decoder(make_base, codebook):
    """A decoder; where trained, every weight that its config calls trained is another than the base's."""

    def make(trained="attention", mode="soft", perturbed=True, **changed):
        config = DecoderConfig(
            mode=mode, code_dim=4, hidden_channels=8, image_size=(16, 16), base="./base", trained=trained,
            codebook_sha256=tensor_sha256(codebook), vlm="tiny-vlm", steps=3,
            lora_rank=2 if trained == "lora" else None, lora_alpha=3.0 if trained == "lora" else None,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(1)
            decoder = DistributionDecoder(replace(config, **changed), make_base(), codebook, CALIBRATION)
            decoder.eval().requires_grad_(False)
            if perturbed:
                for weight in trained_parameters(decoder).values():
                    weight += 0.3 * torch.randn_like(weight)
        return decoder

    return make


@pytest.fixture
def distribution(codebook, make_distribution):
    return make_distribution(codebook, seed=5)


def assert_same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


# --- the condition ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hard", "soft", "joint"])
def test_before_training_the_velocity_is_the_pretrained_transformers(mode, make_decoder, distribution):
    decoder = make_decoder(mode=mode, perturbed=False)
    tokens = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(2))
    times = torch.tensor([0.1, 0.5, 1.0])
    transformer = decoder.base.transformer
    unconditioned = transformer(
        hidden_states=tokens,
        encoder_hidden_states=torch.zeros(3, 0, transformer.config.joint_attention_dim),
        pooled_projections=torch.zeros(3, transformer.config.pooled_projection_dim),
        timestep=times,
        img_ids=torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)]),
        txt_ids=torch.zeros(0, 3),
    ).sample
    condition = decoder.condition_tokens(distribution)
    assert torch.equal(decoder.base.velocity(tokens, times, condition, GRID), unconditioned)


def test_each_mode_sees_what_it_says(make_decoder, distribution, codebook):
    # The same belief with other tokens changes all but `soft`; another belief with the same tokens all but `hard`.
    other_tokens = replace(distribution, tokens=(distribution.tokens + 1) % len(codebook))
    other_belief = replace(distribution, codes=-distribution.codes, uncertainty=1 - distribution.uncertainty)
    for mode, sees_tokens, sees_belief in (("hard", True, False), ("soft", False, True), ("joint", True, True)):
        decoder = make_decoder(mode=mode)
        plain = decoder.condition_tokens(distribution)
        assert torch.equal(decoder.condition_tokens(other_tokens), plain) != sees_tokens
        assert torch.equal(decoder.condition_tokens(other_belief), plain) != sees_belief


def test_a_distribution_on_another_grid_is_interpolated_to_the_token_grid(make_decoder, codebook, make_distribution):
    coarse = make_distribution(codebook, grid=(2, 2))
    assert make_decoder().condition_tokens(coarse).shape == (3, 16, 16)
    uniform = replace(coarse, codes=coarse.codes[:, :1, :1].expand(3, 2, 2, 4), uncertainty=torch.zeros(3, 2, 2, 4))
    fine = replace(
        uniform,
        tokens=torch.zeros(3, 4, 4, dtype=torch.int64),
        codes=uniform.codes[:, :1, :1].expand(3, 4, 4, 4),
        uncertainty=torch.zeros(3, 4, 4, 4),
    )
    decoder = make_decoder()
    torch.testing.assert_close(decoder.condition_tokens(uniform), decoder.condition_tokens(fine), rtol=0, atol=1e-5)


# --- denoising ----------------------------------------------------------------------------------------------------


def test_denoising_is_the_euler_integral_of_the_velocity(make_decoder, distribution):
    decoder = make_decoder()
    found = decoder.denoise(distribution, seeds=[1, 2, 3], steps=2)
    # The same by hand: 2 shifted steps from the packed noise of each seed.
    noise = image_noise([1, 2, 3], (2, 8, 8), "decoder")
    state = noise.view(3, 2, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(3, 16, 8)
    condition = decoder.condition_tokens(distribution)
    middle = flow.shift_times(torch.tensor(0.5), flow.resolution_shift(16)).item()
    for now, following in ((1.0, middle), (middle, 0.0)):
        velocity = decoder.base.velocity(state, torch.full((3,), now), condition, GRID)
        state = state - (now - following) * velocity
    expected = decode_latents(decoder.base.vae, unpack(state, GRID))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.shape == (3, 3, 16, 16)
    assert found.abs().max() <= 1


def test_the_noise_scale_scales_the_initial_noise(make_decoder, distribution):
    """Without noise the seed is without effect, and one step from there is decoded from minus the velocity at 0."""
    silent = make_decoder(noise_scale=0.0)
    found = silent.denoise(distribution, seeds=[1, 2, 3], steps=1)
    assert torch.equal(silent.denoise(distribution, seeds=[7, 8, 9], steps=1), found)
    condition = silent.condition_tokens(distribution)
    velocity = silent.base.velocity(torch.zeros(3, 16, 8), torch.ones(3), condition, GRID)
    torch.testing.assert_close(found, decode_latents(silent.base.vae, unpack(-velocity, GRID)), rtol=0, atol=1e-5)
    half, whole = make_decoder(noise_scale=0.5), make_decoder()
    assert not torch.allclose(*(d.denoise(distribution, seeds=[1, 2, 3]) for d in (half, whole)), atol=1e-3)
    with pytest.raises(SoftDecodeError, match=r"noise scale must lie in \[0, 2\]"):
        make_decoder(noise_scale=-0.1)


def test_an_image_depends_on_its_own_seed_and_distribution_only(make_decoder, distribution):
    decoder = make_decoder()
    together = decoder.denoise(distribution, seeds=[1, 2, 3])
    order = [2, 0, 1]
    reordered = decoder.denoise(distribution[order], seeds=[3, 1, 2])
    torch.testing.assert_close(reordered, together[order], rtol=0, atol=1e-4)
    for place in range(3):
        alone = decoder.denoise(distribution[place : place + 1], seeds=[place + 1])
        torch.testing.assert_close(alone[0], together[place], rtol=0, atol=1e-4)
    assert torch.equal(decoder.denoise(distribution, seeds=[1, 2, 3]), together)


def test_another_seed_or_distribution_is_another_image(make_decoder, distribution):
    decoder = make_decoder()
    same = distribution[[0, 0, 1]]
    first, other_seed, other_belief = decoder.denoise(same, seeds=[1, 2, 1])
    assert (first - other_seed).abs().max() > 1e-2
    assert (first - other_belief).abs().max() > 1e-2


def test_steps_are_those_asked_for_or_the_configs(make_decoder, distribution):
    decoder = make_decoder()
    counted = []
    by_default = decoder.denoise(distribution, seeds=[1, 2, 3], on_step=lambda *n: counted.append(n))
    assert counted == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(decoder.denoise(distribution, seeds=[1, 2, 3], steps=3), by_default)
    assert not torch.allclose(decoder.denoise(distribution, seeds=[1, 2, 3], steps=1), by_default, atol=1e-3)


@pytest.mark.parametrize("steps", [0, -2])
def test_less_than_one_step_is_refused(steps, make_decoder, distribution):
    with pytest.raises(SoftDecodeError, match=f"at least 1 step, got {steps}"):
        make_decoder().denoise(distribution, seeds=[1, 2, 3], steps=steps)


@pytest.mark.parametrize("seeds", [[], [1], [1, 2, 3, 4]])
def test_a_wrong_number_of_seeds_is_refused(seeds, make_decoder, distribution):
    with pytest.raises(SoftDecodeError, match=f"3 images need as many decoder seeds, got {len(seeds)}"):
        make_decoder().denoise(distribution, seeds=seeds)


# --- the draft ----------------------------------------------------------------------------------------------------


@pytest.fixture
def draft():
    return torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))


def test_a_draft_is_seen_as_its_packed_latents(make_decoder, distribution, draft):
    decoder = make_decoder(draft=True)
    codes, uncertainty = condition_inputs(distribution, decoder.codebook, "soft")
    latents = pack(encode_images(decoder.base.vae, draft.float() / 127.5 - 1))
    expected = decoder.condition(codes, uncertainty, GRID, latents)
    torch.testing.assert_close(decoder.condition_tokens(distribution, draft), expected, rtol=0, atol=1e-5)
    other = decoder.condition_tokens(distribution, 255 - draft)
    assert (other - expected).abs().max() > 1e-2


def test_with_a_draft_too_an_image_depends_on_its_own_inputs_only(make_decoder, distribution, draft):
    decoder = make_decoder(draft=True)
    together = decoder.denoise(distribution, seeds=[1, 2, 3], draft=draft)
    for place in (2, 0, 1):
        part = slice(place, place + 1)
        alone = decoder.denoise(distribution[part], seeds=[place + 1], draft=draft[part])
        torch.testing.assert_close(alone[0], together[place], rtol=0, atol=1e-4)


def test_a_missing_draft_and_one_too_many_are_refused(make_decoder, distribution, draft):
    with pytest.raises(SoftDecodeError, match="give it as the draft"):
        make_decoder(draft=True).denoise(distribution, seeds=[1, 2, 3])
    with pytest.raises(SoftDecodeError, match="no use for a draft"):
        make_decoder().denoise(distribution, seeds=[1, 2, 3], draft=draft)


def test_a_decoder_with_a_draft_is_read_back(make_decoder, distribution, draft, tmp_path):
    decoder = make_decoder(draft=True)
    decoder.save_pretrained(tmp_path / "decoder", "card", dtype=torch.float32)
    loaded = DistributionDecoder.from_pretrained(tmp_path / "decoder", base=decoder.base)
    assert loaded.config.draft
    seeds = [1, 2, 3]
    found, expected = (d.denoise(distribution, seeds=seeds, draft=draft) for d in (loaded, decoder))
    assert torch.equal(found, expected)


# --- the codebook -------------------------------------------------------------------------------------------------


def test_another_codebook_is_refused_naming_both(make_decoder, codebook, make_codebook):
    decoder = make_decoder()
    other = make_codebook(seed=9)
    decoder.check_codebook(codebook.clone(), "the same VLM")
    with pytest.raises(SoftDecodeError) as caught:
        decoder.check_codebook(other, "other-vlm")
    for part in ("tiny-vlm", "other-vlm", tensor_sha256(codebook)[:12], tensor_sha256(other)[:12]):
        assert part in str(caught.value)


def test_a_codebook_normalised_elsewhere_is_the_same(make_decoder, codebook):
    decoder = make_decoder()
    decoder.check_codebook(torch.nextafter(codebook, 2 * codebook), "the same VLM")
    decoder.check_codebook(codebook.double(), "the same VLM")


def test_one_code_that_differs_is_another_codebook(make_decoder, codebook):
    exchanged = codebook.clone()
    exchanged[[7, 8]] = codebook[[8, 7]]
    for other in (exchanged, -codebook, codebook[:-1], codebook[:, :3]):
        with pytest.raises(SoftDecodeError, match="other-vlm"):
            make_decoder().check_codebook(other, "other-vlm")


def test_a_codebook_of_nan_is_another_codebook(make_decoder, codebook):
    with pytest.raises(SoftDecodeError, match="other-vlm"):
        make_decoder().check_codebook(codebook * torch.nan, "other-vlm")


def test_a_decoder_is_not_made_with_another_codebook(make_decoder, make_codebook):
    decoder = make_decoder()
    for other in (make_codebook(seed=9), make_codebook(size=41), make_codebook()[:, :3]):
        with pytest.raises(SoftDecodeError, match="tiny-vlm"):
            DistributionDecoder(decoder.config, decoder.base, other, CALIBRATION)
    with pytest.raises(SoftDecodeError, match="tiny-vlm"):
        make_decoder(code_dim=5)


@pytest.mark.parametrize("wrong", [{"mode": "vague"}, {"trained": "some"}, {"steps": 0}, {"steps": -1}])
def test_an_impossible_config_is_refused(wrong, make_decoder):
    config = make_decoder().config
    with pytest.raises(SoftDecodeError, match=str(next(iter(wrong.values())))):
        replace(config, **wrong)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["soft", "joint"])
@pytest.mark.parametrize("trained", PARTS)
def test_a_saved_decoder_is_read_back_exactly(trained, mode, make_decoder, make_base, distribution, tmp_path):
    decoder = make_decoder(trained, mode)
    decoder.save_pretrained(tmp_path / "decoder", "the card", dtype=torch.float32)
    loaded = DistributionDecoder.from_pretrained(tmp_path / "decoder", base=make_base())
    assert loaded.config == decoder.config
    assert loaded.calibration == decoder.calibration
    assert torch.equal(loaded.codebook, decoder.codebook)
    assert_same_state(loaded, decoder)
    seeds = [1, 2, 3]
    assert torch.equal(loaded.denoise(distribution, seeds=seeds), decoder.denoise(distribution, seeds=seeds))
    assert (tmp_path / "decoder" / "README.md").read_text(encoding="utf-8") == "the card"


@pytest.mark.parametrize("trained", PARTS)
def test_the_file_holds_what_was_trained_and_the_codebook_and_no_more(trained, make_decoder, tmp_path):
    decoder = make_decoder(trained)
    decoder.save_pretrained(tmp_path / "decoder", "")
    found, _ = read_tensors(tmp_path / "decoder" / "model.safetensors")
    expected = {f"condition.{name}" for name, _ in decoder.condition.named_parameters()} | {"codebook"}
    names = [name for name, _ in decoder.base.transformer.named_parameters()]
    if trained == "all":
        text = {"context_embedder.weight", "context_embedder.bias", "time_text_embed.text_embedder.linear_1.weight"}
        expected |= {f"transformer.{name}" for name in names if name not in text}  # for there is no text
    if trained == "lora":
        kinds = [f"to_{k}.lora_{side}.weight" for k in "qkv" for side in "AB"]  # diffusers' names
        expected |= {f"transformer.single_transformer_blocks.{i}.attn.{kind}" for i in range(2) for kind in kinds}
    if trained == "attention":
        kinds = ("norm_q.weight", "norm_k.weight", *(f"to_{k}.{w}" for k in "qkv" for w in ("weight", "bias")))
        expected |= {f"transformer.single_transformer_blocks.{i}.attn.{kind}" for i in range(2) for kind in kinds}
    assert found.keys() == expected
    assert {name: value.dtype for name, value in found.items() if value.dtype != torch.bfloat16} == {
        "codebook": torch.float32
    }


def test_what_was_not_trained_comes_from_the_base(make_decoder, make_base, tmp_path):
    decoder = make_decoder("attention")
    decoder.save_pretrained(tmp_path / "decoder", "", dtype=torch.float32)
    loaded = DistributionDecoder.from_pretrained(tmp_path / "decoder", base=make_base(seed=8))
    saved, other = decoder.base.transformer.state_dict(), make_base(seed=8).transformer.state_dict()
    for name, value in loaded.base.transformer.state_dict().items():
        assert torch.equal(value, saved[name] if ".attn." in name else other[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_is_found_from_the_decoders_folder(dtype, make_decoder, make_base, tmp_path):
    decoder = make_decoder("attention")
    decoder.save_pretrained(tmp_path / "decoder", "", dtype=torch.float32)
    make_base().transformer.save_pretrained(tmp_path / "decoder" / "base" / "transformer")
    make_base().vae.save_pretrained(tmp_path / "decoder" / "base" / "vae")
    loaded = DistributionDecoder.from_pretrained(tmp_path / "decoder", dtype=dtype)
    assert_same_state(loaded, decoder.to(dtype))
    assert torch.equal(loaded.codebook, read_tensors(tmp_path / "decoder" / "model.safetensors")[0]["codebook"])
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_weights_stored_as_bfloat16_are_the_rounded_ones(make_decoder, make_base, tmp_path):
    decoder = make_decoder("all")
    decoder.save_pretrained(tmp_path / "decoder", "")
    loaded = DistributionDecoder.from_pretrained(tmp_path / "decoder", base=make_base())
    for name, value in loaded.condition.state_dict().items():
        assert torch.equal(value, decoder.condition.state_dict()[name].bfloat16().float())


def test_a_decoder_read_in_bfloat16_can_be_saved_and_read_again(make_decoder, make_base, tmp_path, codebook):
    make_decoder().save_pretrained(tmp_path / "a", "")
    narrow = DistributionDecoder.from_pretrained(tmp_path / "a", base=make_base(), dtype=torch.bfloat16)
    assert narrow.dtype == torch.bfloat16
    narrow.save_pretrained(tmp_path / "b", "")
    again = DistributionDecoder.from_pretrained(tmp_path / "b", base=make_base(), dtype=torch.bfloat16)
    assert_same_state(again, narrow)
    assert torch.equal(again.codebook, codebook)


def test_a_decoder_narrowed_by_hand_can_be_saved_and_read_again(make_decoder, make_base, tmp_path, codebook):
    make_decoder().to(torch.bfloat16).save_pretrained(tmp_path / "decoder", "")
    loaded = DistributionDecoder.from_pretrained(tmp_path / "decoder", base=make_base())
    assert torch.equal(loaded.codebook, codebook)


def test_saving_again_replaces_the_folder(make_decoder, make_base, tmp_path):
    make_decoder("all").save_pretrained(tmp_path / "decoder", "")
    (tmp_path / "decoder" / "stale.txt").write_text("x", encoding="utf-8")
    make_decoder("adapter").save_pretrained(tmp_path / "decoder", "")
    names = {item.name for item in (tmp_path / "decoder").iterdir()}
    assert names == {"config.json", "calibration.json", "model.safetensors", "README.md"}
    assert DistributionDecoder.from_pretrained(tmp_path / "decoder", base=make_base()).config.trained == "adapter"


@pytest.fixture
def saved(make_decoder, tmp_path):
    """The folder of a decoder with trained attention."""
    make_decoder().save_pretrained(tmp_path / "decoder", "")
    return tmp_path / "decoder"


def test_a_missing_folder_or_config_is_an_error_that_says_what_was_found(tmp_path, saved):
    with pytest.raises(SoftDecodeError, match=r"absent is not a decoder: .*no such folder"):
        DistributionDecoder.from_pretrained(tmp_path / "absent")
    (saved / "config.json").unlink()
    with pytest.raises(SoftDecodeError, match=r"README\.md, calibration\.json, model\.safetensors"):
        DistributionDecoder.from_pretrained(saved)


@pytest.mark.parametrize("name", ["calibration.json", "model.safetensors"])
def test_a_missing_file_is_an_error_that_names_it(name, saved, make_base):
    (saved / name).unlink()
    with pytest.raises(SoftDecodeError, match=name):
        DistributionDecoder.from_pretrained(saved, base=make_base())


@pytest.mark.parametrize("kept", [0, 100, 2000, -1])
def test_truncated_weights_are_an_error_that_names_the_file(kept, saved, make_base):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(SoftDecodeError, match=r"model\.safetensors is damaged"):
        DistributionDecoder.from_pretrained(saved, base=make_base())


def test_keys_that_do_not_fit_are_all_listed_and_the_base_stays_as_it_was(saved, make_base):
    tensors, _ = read_tensors(saved / "model.safetensors")
    del tensors["condition.conv.weight"], tensors["transformer.single_transformer_blocks.1.attn.to_q.bias"]
    tensors["condition.linear.bias"] = torch.zeros(3)
    tensors["transformer.x_embedder.bias"] = torch.zeros(16)
    write_tensors(saved / "model.safetensors", tensors)
    base = make_base()
    with pytest.raises(SoftDecodeError) as caught:
        DistributionDecoder.from_pretrained(saved, base=base)
    message = str(caught.value)
    assert "2 missing: condition.conv.weight, transformer.single_transformer_blocks.1.attn.to_q.bias" in message
    assert "1 unexpected: transformer.x_embedder.bias" in message
    assert "1 misshaped: condition.linear.bias is [3], expected [8]" in message
    assert_same_state(base, make_base())


def test_weights_without_or_with_another_codebook_are_refused(saved, make_base, make_codebook):
    tensors, _ = read_tensors(saved / "model.safetensors")
    write_tensors(saved / "model.safetensors", {**tensors, "codebook": make_codebook(seed=9)})
    with pytest.raises(SoftDecodeError, match=r"codebook .*tiny-vlm"):
        DistributionDecoder.from_pretrained(saved, base=make_base())
    del tensors["codebook"]
    write_tensors(saved / "model.safetensors", tensors)
    with pytest.raises(SoftDecodeError, match="holds no codebook"):
        DistributionDecoder.from_pretrained(saved, base=make_base())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "softdecode-decoder-99"}, "not a decoder's config"),
        ({"surplus": 1}, "surplus"),
        ({"image_size": 16}, "not a whole decoder config"),
        ({"mode": "vague"}, "'vague'"),
        ({"steps": 0}, "at least 1 step"),
        ({"code_dim": None}, "code_dim"),  # None removes the entry
        ({"image_size": None}, "image_size"),
    ],
)
def test_a_damaged_config_is_an_error_that_says_what(change, message, saved):
    content = json.loads((saved / "config.json").read_text(encoding="utf-8")) | change
    content = {name: value for name, value in content.items() if value is not None or name == "base_revision"}
    (saved / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SoftDecodeError, match=message):
        read_config(saved)


def test_the_config_is_read_back_as_it_was(saved, make_decoder):
    assert read_config(saved) == make_decoder().config
