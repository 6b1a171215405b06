"""The reconstruction protocol: its rows, what they may depend on, and their bits per pixel."""

import math

import pytest
import torch
from torch import nn

from softdecode.calibration import Calibration
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import DecoderConfig
from softdecode.evaluation.measuring import Measuring
from softdecode.evaluation.reconstruction import evaluate_reconstruction, proxy_distribution
from softdecode.evaluation.rows import BitRates
from softdecode.files import tensor_sha256
from softdecode.images import to_uint8, to_unit_range
from softdecode.latents import decode_latents, encode_images
from softdecode.training.tokenizer import TokenizerConfig, build_tokenizer
from softdecode.vlm.base import nearest_tokens
from softdecode.vlm.janus_tokenizer import JanusTokenizer

pytest.importorskip("softdecode.evaluation.torchmetrics")

CODES, DIM, COUNT = 32, 4, 5


class Averages(nn.Module):
    """Features: mean colours of the four quarters."""

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


@pytest.fixture(scope="module")
def tokenizer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = TokenizerConfig(codes=CODES, code_dim=DIM, base_channels=32, channel_multiplier=(1, 1, 1))
        return JanusTokenizer(build_tokenizer(config, 16, 32)).eval()


@pytest.fixture(scope="module")
def originals():
    return torch.randint(0, 256, (COUNT, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def make_decoder(tokenizer, make_base):
    base = make_base()

    def make(mode, **calibration):
        codebook = tokenizer.codebook
        config = DecoderConfig(
            mode=mode,
            code_dim=DIM,
            hidden_channels=8,
            image_size=(16, 16),
            base="../base",
            trained="adapter",
            codebook_sha256=tensor_sha256(codebook),
            vlm="tiny",
            steps=2,
        )
        with torch.random.fork_rng():
            torch.manual_seed(2)
            decoder = DistributionDecoder(config, base, codebook, Calibration(**calibration))
            decoder.condition.projection.weight.data.normal_(std=0.5)
        return decoder.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="module")
def decoders(make_decoder):
    return {"hard": make_decoder("hard"), "soft": make_decoder("soft", kappa=5.0), "joint": make_decoder("joint")}


@pytest.fixture(scope="module")
def evaluate(originals, tokenizer, decoders):
    def call(**changes):
        usual = {
            "originals": originals,
            "tokenizer": tokenizer,
            "decoders": decoders,
            "calibration": Calibration(kappa=7.0),
            "steps": (1, 2),
            "seed": 3,
        }
        settings = {"extractor": Averages(), "batch_size": 2, "keep": range(COUNT)}
        given = {**usual, **changes}
        measuring = Measuring(
            **{name: given.pop(name, value) for name, value in settings.items()}, **given.pop("more", {})
        )
        return evaluate_reconstruction(
            given.pop("originals"), given.pop("tokenizer"), given.pop("decoders"), measuring, **given
        )

    return call


@pytest.fixture(scope="module")
def measured(evaluate):
    return evaluate()


def test_rows_come_in_their_order(measured):
    assert [(row.name, row.condition, row.steps) for row in measured.rows] == [
        ("vae-ceiling", "latents", None),
        ("vq", "tokens", None),
        ("vq-soft", "expected codes", None),
        ("hard", "tokens", 1),
        ("hard", "tokens", 2),
        ("soft", "distribution", 1),
        ("soft", "distribution", 2),
        ("joint", "tokens + distribution", 1),
        ("joint", "tokens + distribution", 2),
    ]
    images = ["vae-ceiling", "vq", "vq-soft", "hard@1", "hard@2", "soft@1", "soft@2", "joint@1", "joint@2"]
    assert list(measured.images) == images
    assert all(part.shape == (COUNT, 3, 16, 16) and part.dtype == torch.uint8 for part in measured.images.values())
    assert all(row.seconds >= 0 for row in measured.rows)


def test_bits_per_pixel(measured):
    """4×4 tokens of 32 codes on 16×16 pixels; VAE latents 2×8×8; soft conditions at 16 bits a number."""
    pixels, cells = 16 * 16, 4 * 4
    tokens = cells * 5 / pixels
    distribution = cells * (DIM + 4) * 16 / pixels
    expected = {
        "vae-ceiling": 2 * 8 * 8 * 32 / pixels,
        "vq": tokens,
        "vq-soft": cells * DIM * 16 / pixels,
        "hard": tokens,
        "soft": distribution,
        "joint": tokens + distribution,
    }
    assert {row.name: row.bits_per_pixel for row in measured.rows} == pytest.approx(expected)


def test_bit_rates_of_janus_pro():
    """384 px, 24×24 tokens of 16,384 codes and 8 dimensions."""

    class Tokenizer:
        grid, image_size = (24, 24), (384, 384)
        codebook = torch.zeros(16384, 8)

    rates = BitRates.of(Tokenizer())
    assert rates.tokens == pytest.approx(14 / 256)
    assert rates.codes == pytest.approx(8 * 16 / 256)
    assert rates.distribution == pytest.approx(12 * 16 / 256)


@torch.no_grad()
def test_the_rows_are_what_they_say(measured, originals, tokenizer, decoders):
    unit = to_unit_range(originals)
    vae = decoders["hard"].base.vae
    features = tokenizer.features(unit)
    soft = proxy_distribution(features, tokenizer.codebook, decoders["soft"].calibration)
    expected = {
        "vae-ceiling": decode_latents(vae, encode_images(vae, unit)),
        "vq": tokenizer.decode(nearest_tokens(features, tokenizer.codebook)),
        "vq-soft": tokenizer.decode_codes(
            proxy_distribution(features, tokenizer.codebook, Calibration(kappa=7.0)).codes
        ),
        "soft@2": decoders["soft"].denoise(soft, seeds=range(3, 3 + COUNT), steps=2),
    }
    for name, images in expected.items():
        assert (measured.images[name].int() - to_uint8(images).int()).abs().max() <= 1, name
    assert not torch.equal(measured.images["vq"], measured.images["vq-soft"])


def test_psnr_is_to_the_originals(measured, originals):
    errors = (measured.images["vq"].double() - originals.double()) / 255
    expected = (-10 * errors.square().mean((1, 2, 3)).log10()).mean().item()
    (row,) = (row for row in measured.rows if row.name == "vq")
    assert row.psnr == pytest.approx(expected, rel=1e-5)
    assert -1 <= row.ssim <= 1


class Difference(nn.Module):
    """In the place of LPIPS: the mean difference of each pair."""

    def forward(self, images, references):
        return (images.float() - references.float()).abs().mean((1, 2, 3))


def test_lpips_is_a_column_where_it_is_asked_for(measured, evaluate, originals):
    assert all(row.lpips is None for row in measured.rows)
    found = evaluate(more={"lpips": Difference()})
    for row in found.rows:
        images = measured.images[row.name if row.steps is None else f"{row.name}@{row.steps}"]
        assert row.lpips == pytest.approx((images.float() - originals.float()).abs().mean().item(), rel=1e-3)


def test_only_chosen_pictures_are_kept(measured, evaluate, originals):
    found = evaluate(keep=[1, 4])
    assert torch.equal(found.originals, originals[[1, 4]])
    for name, images in found.images.items():
        assert torch.equal(images, measured.images[name][[1, 4]])


class Reader:
    """Pictures that are read a part at a time, and no part twice."""

    def __init__(self, images):
        self.images = images
        self.read = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, part):
        self.read.append((part.start, part.stop))
        return self.images[part]


def test_pictures_are_read_batch_by_batch(measured, evaluate, originals):
    reader = Reader(originals)
    found = evaluate(originals=reader)
    assert reader.read == [(0, 1), (0, 2), (2, 4), (4, 5)], "the first alone, for the size of its latents"
    assert [row.frechet for row in found.rows] == [row.frechet for row in measured.rows]


def test_baselines_do_not_depend_on_the_decoders(measured, evaluate, make_decoder):
    other = evaluate(decoders={"other": make_decoder("soft", kappa=50.0, epsilon=0.3)}, steps=(3,), seed=99)
    for name in ("vae-ceiling", "vq", "vq-soft"):
        assert torch.equal(other.images[name], measured.images[name])
    assert [row.name for row in other.rows] == ["vae-ceiling", "vq", "vq-soft", "other"]


def test_only_soft_rows_depend_on_the_calibration(measured, evaluate):
    other = evaluate(calibration=Calibration(kappa=1.0))
    same = {name for name in measured.images if torch.equal(other.images[name], measured.images[name])}
    assert same == set(measured.images) - {"vq-soft"}, "each decoder keeps its own"


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_nothing(measured, evaluate, batch_size):
    other = evaluate(batch_size=batch_size)
    for name, images in measured.images.items():
        assert (other.images[name].int() - images.int()).abs().max() <= 1, name


def test_the_seed_changes_the_diffusion_decoders_alone(measured, evaluate):
    other = evaluate(seed=4)
    for name, images in measured.images.items():
        assert torch.equal(other.images[name], images) == ("@" not in name)
    # Image i of seed 4 has the noise of image i + 1 of seed 3, not its condition.
    assert not torch.equal(other.images["soft@2"][0], measured.images["soft@2"][1])


def test_progress_counts_the_pictures_of_all_rows(evaluate, decoders):
    calls = []
    more = {"on_progress": lambda *call: calls.append(call)}
    evaluate(decoders={"hard": decoders["hard"]}, steps=(1,), more=more)
    assert calls == [("pictures", done, 4 * COUNT) for done in (2, 4, 6, 8, 10, 12, 14, 16, 17, 18, 19, 20)]


def test_a_sure_encoder_makes_soft_hard(tokenizer, originals):
    """With a huge kappa the expected codes are the nearest ones."""
    features = tokenizer.features(to_unit_range(originals))
    found = proxy_distribution(features, tokenizer.codebook, Calibration(kappa=1e6))
    assert torch.equal(found.tokens, nearest_tokens(features, tokenizer.codebook))
    torch.testing.assert_close(found.codes, tokenizer.codebook[found.tokens], rtol=0, atol=1e-3)
    vague = proxy_distribution(features, tokenizer.codebook, Calibration(kappa=1e-6))
    mean = tokenizer.codebook.mean(0)
    torch.testing.assert_close(vague.codes, mean.expand_as(vague.codes), rtol=0, atol=1e-5)
    assert vague.uncertainty[..., 0].max().item() == pytest.approx(1 / CODES, rel=1e-4)
    assert math.isclose(found.uncertainty[..., 0].mean().item(), 1, rel_tol=1e-2)
