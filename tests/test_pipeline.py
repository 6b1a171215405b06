"""The whole way in one object, with a tiny VLM and a tiny decoder of random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.calibration import Calibration, proxy_logits
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import DecoderConfig
from softdecode.errors import SoftDecodeError
from softdecode.files import tensor_sha256
from softdecode.images import from_pil, to_uint8
from softdecode.mapping import TokenDistribution, map_logits
from softdecode.pipeline import SoftDecodePipeline
from softdecode.training.tokenizer import TokenizerConfig, build_tokenizer, round_codes
from softdecode.training.vlm import VlmConfig, build_vlm, train_text_tokenizer
from softdecode.vlm.base import SamplingConfig
from softdecode.vlm.registry import load_vlm

PROMPTS = ["red apple", "a much longer prompt about a blue fish"]


def build_model(seed=0, rounded=True):
    """A Janus of 16×16 pixels and 4×4 tokens, whose logits depend on prompt and tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = TokenizerConfig(codes=32, code_dim=4, base_channels=32, channel_multiplier=(1, 1, 1))
        tokenizer = build_tokenizer(config, 16, 32)
        if rounded:
            round_codes(tokenizer)
        text = train_text_tokenizer(PROMPTS, 300)
        size = VlmConfig(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocabulary=300)
        vlm = build_vlm(size, tokenizer, text).eval().requires_grad_(False)
        vlm.model.model.generation_head.vision_head.weight.normal_(std=0.5)
    return vlm


def build_decoder(vlm, base, mode="joint", draft=False, **calibration):
    codebook = vlm.tokenizer.codebook
    config = DecoderConfig(
        mode=mode,
        code_dim=4,
        hidden_channels=8,
        image_size=(16, 16),
        base="../base",
        trained="adapter",
        codebook_sha256=tensor_sha256(codebook),
        vlm="tiny",
        steps=2,
        draft=draft,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        decoder = DistributionDecoder(config, base, codebook, Calibration(kappa=9.0, **calibration))
        decoder.condition.projection.weight.data.normal_(std=0.5)
        if draft:
            decoder.condition.draft.weight.data.normal_(std=0.5)
    return decoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vlm():
    return build_model()


@pytest.fixture(scope="module")
def pipe(vlm, make_base):
    return SoftDecodePipeline(vlm, build_decoder(vlm, make_base(), epsilon=0.1))


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


# --- text to image ------------------------------------------------------------------------------------------------


def test_a_call_is_the_vlm_then_the_decoder(pipe, vlm):
    found = pipe(PROMPTS, seed=4, output_type="pt", return_vq=True)
    distribution = vlm.sample(PROMPTS, seeds=[4, 5], calibration=pipe.decoder.calibration)
    assert torch.equal(found.distribution.tokens, distribution.tokens)
    assert torch.equal(found.distribution.codes, distribution.codes)
    assert torch.equal(found.images, to_uint8(pipe.decoder.denoise(distribution, seeds=[4, 5])))
    assert torch.equal(found.vq_images, to_uint8(vlm.tokenizer.decode(distribution.tokens)))
    assert found.images.shape == found.vq_images.shape == (2, 3, 16, 16)
    assert found.images.dtype == torch.uint8


def test_the_belief_is_smoothed_as_in_training_and_not_sharpened(pipe, vlm):
    """epsilon applies to the VLM's logits, kappa does not."""
    plain = vlm.sample(PROMPTS, seeds=[0, 1])
    found = pipe(PROMPTS).distribution
    expected = 0.9 * plain.codes + 0.1 * vlm.tokenizer.codebook.mean(0)
    torch.testing.assert_close(found.codes, expected, rtol=0, atol=1e-5)
    assert torch.equal(found.tokens, plain.tokens)


def test_one_prompt_may_be_a_string(pipe):
    one, several = pipe(PROMPTS[0], seed=3), pipe([PROMPTS[0]], seed=[3])
    assert len(one.images) == 1
    assert one.images[0].mode == "RGB"
    assert one.vq_images is None
    assert np.array_equal(np.asarray(one.images[0]), np.asarray(several.images[0]))


def test_an_image_does_not_depend_on_its_batch(pipe):
    together = pipe(PROMPTS, seed=[8, 9], output_type="pt")
    for place, prompt in enumerate(PROMPTS):
        alone = pipe(prompt, seed=8 + place, output_type="pt")
        assert torch.equal(alone.distribution.tokens[0], together.distribution.tokens[place])
        assert (alone.images[0].int() - together.images[place].int()).abs().max() <= 1


def test_images_depend_on_prompt_and_seed(pipe):
    found = pipe([PROMPTS[0], PROMPTS[0], PROMPTS[1]], seed=[1, 2, 1], output_type="pt").images
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_settings_of_the_vlm_replace_its_defaults_one_by_one(pipe, vlm):
    found = pipe(PROMPTS, guidance_scale=1.0, temperature=0.0).distribution
    expected = vlm.sample(PROMPTS, seeds=[0, 1], sampling=SamplingConfig(guidance_scale=1.0, temperature=0.0))
    assert torch.equal(found.tokens, expected.tokens)
    found = pipe(PROMPTS, top_k=1).distribution
    expected = vlm.sample(PROMPTS, seeds=[0, 1], sampling=SamplingConfig(guidance_scale=5.0, temperature=0.0))
    assert torch.equal(found.tokens, expected.tokens), "of one token, the most probable is drawn"


def test_progress_has_two_stages(pipe):
    calls = []
    pipe(PROMPTS, num_inference_steps=3, on_progress=lambda *call: calls.append(call))
    assert calls == [("vlm", n, 16) for n in range(1, 17)] + [("denoise", n, 3) for n in range(1, 4)]


def test_the_decoders_own_steps_are_used_where_none_are_asked_for(pipe):
    usual = pipe(PROMPTS[0], output_type="pt").images
    assert torch.equal(usual, pipe(PROMPTS[0], num_inference_steps=2, output_type="pt").images)
    assert not torch.equal(usual, pipe(PROMPTS[0], num_inference_steps=5, output_type="pt").images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "prompt 1 of 1 is empty"),
        ({"prompt": []}, "at least one prompt"),
        ({"prompt": ["a", "b"], "seed": [1]}, "2 prompts need as many seeds"),
        ({"prompt": "a", "num_inference_steps": 0}, "denoising needs at least 1 step, got 0"),
        ({"prompt": "a", "guidance_scale": -1.0}, "guidance_scale"),
        ({"prompt": "a", "output_type": "np"}, "unknown output type 'np'; expected pil or pt"),
    ],
)
def test_bad_input_is_refused(pipe, arguments, message):
    with pytest.raises(SoftDecodeError, match=message):
        pipe(**arguments)


def test_the_output_type_is_checked_before_the_long_work(pipe):
    with pytest.raises(SoftDecodeError, match="unknown output type"):
        pipe("a", output_type="np", on_progress=lambda *_call: pytest.fail("it drew"))


def test_the_number_of_steps_is_checked_before_the_long_work(pipe):
    with pytest.raises(SoftDecodeError, match="at least 1 step"):
        pipe("a", num_inference_steps=0, on_progress=lambda *_call: pytest.fail("it drew"))


# --- image to image -----------------------------------------------------------------------------------------------


def test_encoding_is_calibrated_as_in_training(pipe, images):
    found = pipe.encode(images)
    codebook = pipe.vlm.tokenizer.codebook.double()
    features = torch.nn.functional.normalize(pipe.vlm.tokenizer.features(images).double(), dim=-1)
    similarities = features @ codebook.T
    probs = 0.9 * (9.0 * similarities).softmax(-1) + 0.1 / 32
    torch.testing.assert_close(found.codes.double(), probs @ codebook, rtol=0, atol=1e-5)
    assert torch.equal(found.tokens, similarities.argmax(-1))


def test_reconstruction_decodes_both_ways(pipe, images):
    found = pipe.reconstruct(images, seed=6, output_type="pt")
    codebook = pipe.vlm.tokenizer.codebook
    similarities = proxy_logits(pipe.vlm.tokenizer.features(images), codebook)
    distribution = map_logits(pipe.decoder.calibration.for_encoder(similarities), codebook)
    assert torch.equal(found.images, to_uint8(pipe.decoder.denoise(distribution, seeds=[6, 7, 8])))
    assert torch.equal(found.vq_images, to_uint8(pipe.vlm.tokenizer.decode(distribution.tokens)))


def test_reconstruction_takes_pictures(pipe):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    found = pipe.reconstruct([picture], seed=[2])
    expected = pipe.reconstruct(from_pil(picture)[None], seed=2)
    assert np.array_equal(np.asarray(found.images[0]), np.asarray(expected.images[0]))
    assert np.array_equal(np.asarray(found.vq_images[0]), np.asarray(expected.vq_images[0]))
    with pytest.raises(SoftDecodeError, match="images must be"):
        pipe.reconstruct([picture.resize((32, 32))])


def test_a_saved_distribution_is_decoded_without_the_vlm(pipe, tmp_path):
    found = pipe(PROMPTS, seed=3, output_type="pt")
    found.distribution.save(tmp_path / "a.safetensors")
    loaded = TokenDistribution.load(tmp_path / "a.safetensors")
    assert torch.equal(pipe.decode(loaded, seeds=[3, 4]), found.images)


# --- loading ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    pipe.vlm.model.save_pretrained(folder / "vlm")
    pipe.vlm.text_tokenizer.save_pretrained(folder / "vlm")
    for name in ("transformer", "vae"):
        getattr(pipe.decoder.base, name).save_pretrained(folder / "base" / name)
    pipe.decoder.save_pretrained(folder / "decoder", "a card", dtype=torch.float32)
    return folder


def test_a_loaded_pipeline_draws_the_same(pipe, folders):
    loaded = SoftDecodePipeline.from_pretrained(folders / "decoder", vlm=folders / "vlm", device="cpu")
    found, expected = (part(PROMPTS, seed=1, output_type="pt") for part in (loaded, pipe))
    assert torch.equal(found.distribution.tokens, expected.distribution.tokens)
    assert torch.equal(found.images, expected.images)


def test_a_vlm_that_is_loaded_already_is_used(pipe, folders):
    loaded = SoftDecodePipeline.from_pretrained(str(folders / "decoder"), vlm=pipe.vlm)
    assert loaded.vlm is pipe.vlm


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_pipeline_in_half_precision(folders, dtype):
    loaded = SoftDecodePipeline.from_pretrained(folders / "decoder", vlm=folders / "vlm", dtype=dtype)
    assert str(loaded.decoder.dtype) == f"torch.{dtype}"
    assert loaded.decoder.codebook.dtype == torch.float32
    found = loaded(PROMPTS[0], output_type="pt", return_vq=True)
    assert found.distribution.codes.dtype == torch.float32
    assert found.images.float().std() > 0


def test_a_codebook_that_loading_rounded_is_not_another_one(make_base, tmp_path):
    """On CUDA, bfloat16 is the default: a VLM stored in float32 must not be refused there."""
    vlm = build_model(rounded=False)
    vlm.model.save_pretrained(tmp_path)
    vlm.text_tokenizer.save_pretrained(tmp_path)
    SoftDecodePipeline(load_vlm(tmp_path, dtype=torch.bfloat16), build_decoder(vlm, make_base()))


def test_a_decoder_for_another_codebook_is_refused(pipe):
    other = build_model(seed=5)
    with pytest.raises(SoftDecodeError, match=r"trained for the codebook of tiny .* but embedded has another"):
        SoftDecodePipeline(other, pipe.decoder)


def test_a_decoder_of_ones_own_needs_its_vlm_named(folders, monkeypatch, tmp_path):
    (tmp_path / "decoders" / "joint").mkdir(parents=True)
    monkeypatch.setattr("softdecode.models.EMBEDDED", tmp_path)
    with pytest.raises(SoftDecodeError, match=r"name the VLM that the decoder .* belongs to"):
        SoftDecodePipeline.from_pretrained(folders / "decoder")


def test_a_device_that_is_not_there_is_refused_before_loading(folders):
    with pytest.raises(SoftDecodeError, match="unknown device 'tpu'"):
        SoftDecodePipeline.from_pretrained(folders / "nothing", vlm=folders / "nothing", device="tpu")


# --- the draft ----------------------------------------------------------------------------------------------------


def test_the_draft_is_the_vq_decoders_picture_everywhere(vlm, make_base, images):
    pipe = SoftDecodePipeline(vlm, build_decoder(vlm, make_base(), draft=True))
    found = pipe(PROMPTS, seed=4, output_type="pt")
    assert found.vq_images is None, "it was not asked for"
    vq = to_uint8(vlm.tokenizer.decode(found.distribution.tokens))
    assert torch.equal(pipe.decode_vq(found.distribution), vq)
    expected = to_uint8(pipe.decoder.denoise(found.distribution, seeds=[4, 5], draft=vq))
    assert torch.equal(found.images, expected)
    assert torch.equal(pipe.decode(found.distribution, seeds=[4, 5]), expected)
    other = pipe.decode(found.distribution, seeds=[4, 5], vq_images=255 - vq)
    assert not torch.equal(other, expected)
    again = pipe.reconstruct(images, seed=6, output_type="pt")
    expected = pipe.decoder.denoise(pipe.encode(images), seeds=[6, 7, 8], draft=again.vq_images)
    assert torch.equal(again.images, to_uint8(expected))
