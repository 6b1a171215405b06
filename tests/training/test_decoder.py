"""Training of decoders: the flow-matching loss, fair shares of a batch, and compiled gradients."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode import flow
from softdecode.calibration import Calibration, proxy_logits
from softdecode.decoder import DistributionDecoder
from softdecode.decoder_config import DecoderConfig
from softdecode.errors import SoftDecodeError
from softdecode.files import tensor_sha256
from softdecode.latents import pack
from softdecode.mapping import map_logits
from softdecode.training.config import LoopConfig
from softdecode.training.decoder import DecoderTask, TransformerConfig, build_base, seen_in_training
from softdecode.training.features import Features, HeldFeatures
from softdecode.training.loop import train

# Under autocast the transformer's RMSNorms take bfloat16 activations and float32 weights; torch says so once a process.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")

MODES = {"hard": "hard", "soft": "soft", "joint": "joint"}
SAMPLES, GRID, DIM = 12, (4, 4), 4
RANDOM = torch.Generator().manual_seed(0)
FEATURES = Features(
    codes=torch.randn(SAMPLES, *GRID, DIM, generator=RANDOM),
    tokens=torch.randint(0, 24, (SAMPLES, *GRID), dtype=torch.int32, generator=RANDOM),
    latents=torch.randn(SAMPLES, 2, 8, 8, generator=RANDOM).bfloat16(),
    drafts=torch.randn(SAMPLES, 2, 8, 8, generator=RANDOM).bfloat16(),
    belief_codes=torch.randn(SAMPLES, *GRID, DIM, generator=RANDOM).half(),
    belief_uncertainty=torch.rand(SAMPLES, *GRID, 4, generator=RANDOM).half(),
)


@pytest.fixture
def make_task(make_vae, make_codebook):
    """Decoders of all modes on one trainable transformer, and random features."""

    def make(names=MODES, seed=0, splice=0.0, draft=False, source="proxy", features=FEATURES, shown=None):
        codebook = make_codebook(24, DIM)
        vae = make_vae()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            base = build_base(TransformerConfig(layers=2, heads=2, head_dim=16), vae)
            decoders = {}
            for place, name in enumerate(names):
                config = DecoderConfig(
                    mode=MODES[name],
                    code_dim=DIM,
                    hidden_channels=8,
                    image_size=(16, 16),
                    base="../base",
                    trained="adapter",
                    codebook_sha256=tensor_sha256(codebook),
                    vlm="test",
                    draft=draft,
                    source=source,
                )
                calibration = Calibration(kappa=2.0 + place, epsilon=0.01)
                decoders[name] = DistributionDecoder(config, base, codebook, calibration)
        return DecoderTask(decoders, HeldFeatures(features), splice=splice, shown=shown)

    return make


@pytest.fixture
def task(make_task):
    """Conditions that do something: the projection starts at zero."""
    task = make_task()
    generator = torch.Generator().manual_seed(7)
    for decoder in task.decoders.values():
        decoder.condition.projection.weight.data.normal_(std=0.3, generator=generator)
    return task


class Recorder:
    """Stands in for the transformer: records its inputs and answers with `answer(tokens, times)`."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = []

    def __call__(self, tokens, times, condition, grid):
        self.calls.append((tokens, times, condition, grid))
        return self.answer(tokens, times)


# --- the loss -----------------------------------------------------------------------------------------------------


def clean(batch):
    """The packed latents of a batch, which the noise is added to."""
    return pack(batch["latents"].float())


def test_a_batch_holds_features_noise_and_times(task, make_batch):
    batch = make_batch(task)
    for name, value in FEATURES.named().items():
        assert torch.equal(batch[name], value[:6])
    assert batch["noise"].shape == clean(batch).shape
    assert ((batch["times"] > 0) & (batch["times"] < 1)).all()
    many = make_batch(task, indices=[0] * 3999)
    assert many["noise"].mean().item() == pytest.approx(0, abs=0.01)
    assert many["noise"].std().item() == pytest.approx(1, abs=0.01)
    # Logit-normal with FLUX's shift: the median is that of the shifted 1/2.
    shift = math.exp(flow.resolution_shift(16))
    assert many["times"].median().item() == pytest.approx(shift / (1 + shift), abs=0.02)


def test_a_perfect_predictor_has_no_loss(task, monkeypatch, make_batch):
    batch = make_batch(task)
    recorder = Recorder(lambda _tokens, _times: batch["noise"] - clean(batch))
    monkeypatch.setattr(task.base, "velocity", recorder)
    found = task(batch, 0)
    assert found.keys() == {"loss", "loss_hard", "loss_soft", "loss_joint"}
    assert all(value.item() == 0 for value in found.values())
    tokens, times, condition, grid = recorder.calls[0]
    moment = batch["times"][:, None, None]
    torch.testing.assert_close(tokens, (1 - moment) * clean(batch) + moment * batch["noise"])
    assert torch.equal(times, batch["times"])
    assert condition.shape == (6, 16, task.base.token_dim)
    assert grid == GRID


def test_what_leads_from_the_noisy_tokens_back_to_the_clean_ones_has_no_loss(task, monkeypatch, make_batch):
    """The same sign convention as in sampling: one Euler step from time t to 0 along the target gives the latents."""
    batch = make_batch(task)

    def lead_back(tokens, times):
        return (tokens - clean(batch)) / times[:, None, None]

    monkeypatch.setattr(task.base, "velocity", Recorder(lead_back))
    assert task(batch, 0)["loss"].item() == pytest.approx(0, abs=1e-8)


def test_the_loss_of_predicting_nothing_is_the_targets_square(task, monkeypatch, make_batch):
    batch = make_batch(task)
    monkeypatch.setattr(task.base, "velocity", Recorder(lambda tokens, _times: torch.zeros_like(tokens)))
    found = task(batch, 0)
    errors = (batch["noise"] - clean(batch)).square().mean((1, 2))
    torch.testing.assert_close(found["loss"], errors.mean())
    for name, part in zip(MODES, errors.view(2, 3).unbind(1), strict=True):
        torch.testing.assert_close(found[f"loss_{name}"], part.mean())


# --- shares -------------------------------------------------------------------------------------------------------


def test_each_decoder_conditions_every_third_sample(task, monkeypatch, make_batch):
    batch = make_batch(task)
    recorder = Recorder(lambda tokens, _times: torch.zeros_like(tokens))
    monkeypatch.setattr(task.base, "velocity", recorder)
    task(batch, 0)
    condition = recorder.calls[0][2]
    for place, decoder in enumerate(task.decoders.values()):
        part = slice(place, 6, 3)
        similarities = proxy_logits(FEATURES.codes[part], decoder.codebook)
        chosen = FEATURES.tokens[part].long()
        distribution = map_logits(decoder.calibration.for_encoder(similarities), decoder.codebook, tokens=chosen)
        expected = decoder.condition_tokens(distribution)
        torch.testing.assert_close(condition[part], expected)
        assert expected.std() > 0.05


@pytest.mark.parametrize("mode", ["soft", "joint"])
def test_a_teacher_forced_decoder_sees_the_vlms_belief(make_task, mode):
    decoder = make_task([mode], source="teacher-forced").decoders[mode]
    codes, uncertainty = seen_in_training(decoder, FEATURES)
    assert torch.equal(uncertainty, FEATURES.belief_uncertainty.float())
    assert torch.equal(codes[..., -DIM:], FEATURES.belief_codes.float())
    if mode == "joint":
        assert torch.equal(codes[..., :DIM], decoder.codebook[FEATURES.tokens.long()])


def test_the_mapping_is_exact_under_autocast(make_task):
    decoder = make_task(["soft"]).decoders["soft"]
    expected = seen_in_training(decoder, FEATURES)
    with torch.autocast("cpu", torch.bfloat16):
        found = seen_in_training(decoder, FEATURES)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("lacking", "asked", "named"),
    [
        ({"belief_codes": None, "belief_uncertainty": None}, {"source": "teacher-forced"}, "beliefs"),
        ({"drafts": None}, {"draft": True}, "drafts"),
    ],
)
def test_features_that_lack_what_a_decoder_sees_are_refused(make_task, lacking, asked, named):
    with pytest.raises(SoftDecodeError, match=named):
        make_task(["soft"], features=replace(FEATURES, **lacking), **asked)
    make_task(["soft"], features=replace(FEATURES, **lacking))


def test_a_decoders_gradient_comes_from_its_own_share_alone(task, gradients, make_batch):
    whole = gradients(task, make_batch(task), None)
    other = make_batch(task)
    other["noise"][1::3] += 1.0  # of the second decoder's pictures
    changed = gradients(task, other, None)
    for name in MODES:
        same = torch.allclose(
            whole[f"decoders.{name}.condition.projection.weight"],
            changed[f"decoders.{name}.condition.projection.weight"],
            atol=1e-9,
        )
        assert same == (name != "soft")


def test_conditions_and_transformer_are_trained_and_the_vae_is_not(task, gradients, make_batch):
    found = gradients(task, make_batch(task), None)
    assert not [name for name in found if ".vae." in name]
    for name in MODES:
        assert found[f"decoders.{name}.condition.linear.weight"].norm() > 0
    transformer = [name for name in found if "base.transformer" in name]
    assert any("attn" in name for name in transformer)
    assert all(found[name].norm() > 0 for name in transformer if name.endswith("to_v.weight"))


def test_decoders_on_two_bases_are_refused(make_task):
    first, second = make_task(["hard"]), make_task(["soft"], seed=1)
    with pytest.raises(AssertionError, match="share one base"):
        DecoderTask({**first.decoders, **second.decoders}, HeldFeatures(FEATURES))


def test_a_spliced_sample_is_of_two_pictures_in_everything(make_task, make_batch):
    """Every feature comes from the same picture at the same place, own or one other's."""
    task = make_task(splice=1.0)
    indices = [3, 8, 5, 1, 0, 11]
    found = make_batch(task, indices=indices)

    def by_token(name, values):
        return pack(values.float()) if name in ("latents", "drafts") else values.reshape(len(values), 16, -1)

    partners = set()
    for position, own in enumerate(indices):
        sources = {}
        for name, given in FEATURES.named().items():
            values, pictures = by_token(name, found[name])[position], by_token(name, given)
            # Which pictures each token could be of: [16, SAMPLES].
            sources[name] = (values[:, None] == pictures.transpose(0, 1)).all(-1)
            assert sources[name].any(-1).all()
        owned = sources["latents"][:, own]
        (partner,) = sources["latents"][~owned].all(0).nonzero().flatten().tolist()
        assert 0 < owned.sum() < 16
        for matches in sources.values():
            assert matches[owned, own].all()
            assert matches[~owned, partner].all()
        partners.add(partner)
    assert len(partners) > 2, "each sample draws its own"


def test_any_part_of_a_batch_is_the_same_alone(make_task, sample_generators):
    """So that a process, or a micro-batch, makes exactly its own rows."""
    task = make_task(splice=0.7, draft=True)
    indices, generators = torch.tensor([3, 8, 5, 1, 0, 11]), sample_generators
    whole = task.batch(indices, generators(6))
    parts = [task.batch(indices[part], generators(6)[part]) for part in (slice(0, 3), slice(3, 6))]
    assert all(torch.equal(torch.cat([part[name] for part in parts]), whole[name]) for name in whole)
    with torch.no_grad():
        losses = [task(part, 0) for part in parts]
        expected = task(whole, 0)
    for name, value in expected.items():
        torch.testing.assert_close(torch.stack([part[name] for part in losses]).mean(), value)


def test_a_batch_that_cannot_be_shared_out_is_refused(task, make_batch):
    with pytest.raises(SoftDecodeError, match="multiple of 3 samples, got 4"):
        make_batch(task, 4)


def test_the_draft_is_trained_and_seen(make_task, gradients, make_batch):
    task = make_task(draft=True)
    found = gradients(task, make_batch(task), None)
    assert all(found[f"decoders.{name}.condition.draft.weight"].norm() > 0 for name in MODES)


def test_muon_takes_the_matrices_of_attention_and_feed_forward_only(task):
    names = {id(p): name for name, p in task.base.transformer.named_parameters()}
    found = {names[id(p)].split(".", 2)[2] for p in task.hidden_matrices()}
    assert found == {"proj_mlp.weight", "proj_out.weight", *(f"attn.to_{kind}.weight" for kind in "qkv")}


# --- arithmetic ---------------------------------------------------------------------------------------------------


def test_times_reach_the_transformer_in_float32_under_autocast(task, make_batch):
    seen = []
    embedder = task.base.transformer.time_text_embed
    hook = embedder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    batch = make_batch(task)
    with torch.autocast("cpu", torch.bfloat16):
        task(batch, 0)
    hook.remove()
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], 1000 * batch["times"])


def test_bf16_gradients_agree_with_float32(task, gradients, assert_gradients_agree, make_batch):
    batch = make_batch(task)
    assert_gradients_agree(gradients(task, batch, torch.bfloat16), gradients(task, batch, None))


# torch's compiler imports a deprecated part of torch, and looks at gradients of tensors that have none.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="needs a C compiler")
def test_compiled_blocks_have_the_gradients_of_eager_ones(task, gradients, assert_gradients_agree, make_batch):
    batch = make_batch(task)
    expected = gradients(task, batch, torch.bfloat16)
    names = set(task.state_dict())
    task.compile_blocks()
    try:
        found = gradients(task, batch, torch.bfloat16)
    finally:
        torch.compiler.reset()
    assert_gradients_agree(found, expected)
    assert set(task.state_dict()) == names, "checkpoints of compiled and eager runs are the same"


# --- whole runs ---------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_condition_matters(make_task, tmp_path, make_batch):
    task = make_task()
    config = LoopConfig(steps=120, batch_size=12, learning_rate=5e-3, warmup_steps=5, precision="fp32", ema_decay=0.9)
    many = make_batch(task, indices=list(range(12)) * 4, seed=3)
    with torch.no_grad():
        before = task(many, 0)["loss"]
    train(task, config, tmp_path, job={})
    with torch.no_grad():
        after = task(many, 0)["loss"]
        others = {name: value.roll(1, 0) for name, value in many.items() if name not in ("latents", "noise", "times")}
        shuffled = task(many | others, 0)["loss"]
    assert others
    assert after < 0.8 * before
    assert shuffled > 1.05 * after, "with another picture's condition it predicts worse"


def test_a_preview_shows_every_decoders_pictures(make_task, tmp_path):
    task = make_task(draft=True)
    config = LoopConfig(steps=2, batch_size=12, learning_rate=5e-3, warmup_steps=1, precision="fp32", preview_every=1)
    train(task, config, tmp_path, job={})
    sheets = [np.asarray(Image.open(path)).astype(int) for path in sorted((tmp_path / "previews").iterdir())]
    changed = np.abs(sheets[1] - sheets[0]).sum((0, 2)) > 0  # by column of pixels
    assert not changed[:300].any(), "the labels and the VAE's round trip stay"
    assert all(changed[330 + 136 * place :][:120].any() for place in range(len(MODES))), "each decoder has learnt"


@torch.no_grad()
def test_a_preview_can_show_pictures_that_training_does_not_see(make_task):
    others = FEATURES.rows(torch.tensor([7, 3]))
    found = make_task(draft=True, shown=others).eval().preview(0)
    assert found.tobytes() == make_task(draft=True, features=others).eval().preview(0).tobytes()
    assert found.size != make_task(draft=True).eval().preview(0).size, "two pictures, not six"
