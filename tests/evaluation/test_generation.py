"""The generation protocol: every prompt is drawn once, and the same tokens are decoded in every way."""

import pytest
import torch
from torch import nn

from softdecode.calibration import Calibration
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import DecoderConfig
from softdecode.evaluation.generation import evaluate_generation
from softdecode.evaluation.measuring import Measuring
from softdecode.files import tensor_sha256
from softdecode.images import to_uint8
from softdecode.mapping import map_logits
from softdecode.training.tokenizer import TokenizerConfig, build_tokenizer
from softdecode.vlm.base import SamplingConfig
from softdecode.vlm.janus_tokenizer import JanusTokenizer

pytest.importorskip("softdecode.evaluation.torchmetrics")

PROMPTS = ["one", "two", "three"]
SAMPLING = SamplingConfig(guidance_scale=2.0)


class Averages(nn.Module):
    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


class Drawer:
    """A VLM whose logits come from prompt and seed, that remembers what it was asked."""

    name, device, defaults = "drawer", torch.device("cpu"), SamplingConfig()

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.calls = []

    def sample(self, prompts, *, seeds, sampling=None, calibration=None, on_token=None, on_logits=None):
        self.calls.append((list(prompts), list(seeds), sampling, calibration))
        codebook = self.tokenizer.codebook
        logits = torch.stack(
            [
                3 * torch.randn(4, 4, len(codebook), generator=torch.Generator().manual_seed(100 * len(prompt) + seed))
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
        )
        return map_logits(calibration.for_vlm(logits), codebook, tokens=logits.argmax(-1))


@pytest.fixture(scope="module")
def tokenizer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = TokenizerConfig(codes=32, code_dim=4, base_channels=32, channel_multiplier=(1, 1, 1))
        return JanusTokenizer(build_tokenizer(config, 16, 32)).eval()


@pytest.fixture(scope="module")
def make_decoder(tokenizer, make_base):
    base = make_base()

    def make(mode, epsilon=0.0):
        codebook = tokenizer.codebook
        config = DecoderConfig(
            mode=mode,
            code_dim=4,
            hidden_channels=8,
            image_size=(16, 16),
            base="../base",
            trained="adapter",
            codebook_sha256=tensor_sha256(codebook),
            vlm="drawer",
            steps=2,
        )
        with torch.random.fork_rng():
            torch.manual_seed(2)
            decoder = DistributionDecoder(config, base, codebook, Calibration(kappa=5.0, epsilon=epsilon))
            decoder.condition.projection.weight.data.normal_(std=0.5)
        return decoder.eval().requires_grad_(False)

    return make


@pytest.fixture
def drawer(tokenizer):
    return Drawer(tokenizer)


@pytest.fixture
def evaluate(drawer):
    references = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def call(decoders, **changes):
        settings = {"extractor": Averages(), "batch_size": 2, "keep": range(3), "on_progress": None}
        measuring = Measuring(**{name: changes.pop(name, value) for name, value in settings.items()})
        usual = {"sampling": SAMPLING, "steps": (2,), "seed": 3}
        return evaluate_generation(PROMPTS, references, drawer, decoders, measuring, **{**usual, **changes})

    return call


def test_prompts_are_drawn_once_for_decoders_of_one_smoothing(evaluate, drawer, make_decoder):
    hard, soft = make_decoder("hard", 0.1), make_decoder("soft", 0.1)
    measured, seconds = evaluate({"hard": hard, "soft": soft}, steps=(1, 2))
    assert [call[:3] for call in drawer.calls] == [
        (["one", "two"], [3, 4], SAMPLING),
        (["three"], [5], SAMPLING),
    ]
    assert [(row.name, row.steps) for row in measured.rows] == [
        *(("vq", None), ("vq-soft", None)),
        *(("hard", 1), ("hard", 2), ("soft", 1), ("soft", 2)),
    ]
    assert seconds >= 0
    assert all(row.psnr is None and row.ssim is None for row in measured.rows)


def test_each_smoothing_has_its_own_belief_of_the_same_tokens(evaluate, drawer, make_decoder):
    decoders = {"plain": make_decoder("soft", 0.0), "smooth": make_decoder("soft", 0.4), "hard": make_decoder("hard")}
    measured, _ = evaluate(decoders)
    assert [call[3].epsilon for call in drawer.calls] == [0.0, 0.4, 0.0, 0.4]
    assert not torch.equal(measured.images["plain@2"], measured.images["smooth@2"])
    # Each decoder, on its own, makes the pictures that it makes beside the others.
    for name, decoder in decoders.items():
        alone, _ = evaluate({name: decoder})
        assert torch.equal(alone.images[f"{name}@2"], measured.images[f"{name}@2"])
        assert torch.equal(alone.images["vq"], measured.images["vq"])


@torch.no_grad()
def test_the_rows_are_what_they_say(evaluate, drawer, make_decoder, tokenizer):
    decoder = make_decoder("joint", 0.1)
    measured, _ = evaluate({"joint": decoder})
    drawn = drawer.sample(PROMPTS, seeds=[3, 4, 5], calibration=decoder.calibration)
    expected = {
        "vq": tokenizer.decode(drawn.tokens),
        "vq-soft": tokenizer.decode_codes(drawn.codes),
        "joint@2": decoder.denoise(drawn, seeds=[3, 4, 5], steps=2),
    }
    assert measured.images.keys() == expected.keys()
    for name, images in expected.items():
        assert (measured.images[name].int() - to_uint8(images).int()).abs().max() <= 1, name


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(evaluate, make_decoder, batch_size):
    decoders = {"soft": make_decoder("soft", 0.1)}
    (found, _), (expected, _) = evaluate(decoders, batch_size=batch_size), evaluate(decoders)
    for name, images in expected.images.items():
        assert (found.images[name].int() - images.int()).abs().max() <= 1, name


def test_progress_counts_the_pictures_of_all_rows(evaluate, make_decoder):
    calls = []
    evaluate({"soft": make_decoder("soft")}, on_progress=lambda *call: calls.append(call))
    expected = [("pictures", done, 9) for done in (2, 4, 6, 7, 8, 9)]
    assert calls == [*expected, ("references", 2, 4), ("references", 4, 4)]
