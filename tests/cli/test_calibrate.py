"""`softdecode calibrate`: the encoder is as sure as the VLM afterwards, and the file says how that was measured."""

import json

import pytest
import torch
from PIL import Image

from softdecode.calibration import Calibration, proxy_logits
from softdecode.data.emoji import load_emoji
from softdecode.data.prompts import held_in_prompts
from softdecode.files import tensor_sha256
from softdecode.images import to_unit_range
from softdecode.mapping import entropy
from softdecode.vlm.janus import JanusModel
from softdecode.vlm.registry import load_vlm


@pytest.fixture(scope="module")
def calibration(stack):
    return Calibration.load(stack.runs / "calibration" / "calibration.json")


def test_the_vlms_statistics_are_taken_of_all_draws(stack, calibration):
    assert calibration.target.tokens == 4 * 64
    assert calibration.reached.tokens == calibration.raw.tokens == 8 * 64
    protocol = calibration.protocol
    assert (protocol["draws"], protocol["encodes"], protocol["seed"]) == (4, 8, 0)
    assert protocol["sampling"] == json.loads((stack.runs / "vlm/model/softdecode_sampling.json").read_text())
    assert calibration.codebook_sha256 == tensor_sha256(load_vlm(stack.runs / "vlm" / "model").tokenizer.codebook)


def test_the_target_is_the_vlms_belief(stack, calibration):
    """Drawn again, one image at a time."""
    vlm = load_vlm(stack.runs / "vlm" / "model")
    prompts = [emoji.caption for emoji in held_in_prompts(load_emoji(stack.data).split("train"), 4)]
    seen = []
    for seed, prompt in enumerate(prompts):
        vlm.sample([prompt], seeds=[seed], on_logits=lambda logits: seen.append(logits.log_softmax(-1)))
    logits = torch.cat(seen)
    assert calibration.target.top1 == pytest.approx(logits.exp().amax(-1).mean().item(), rel=1e-4)
    size = torch.log(torch.tensor(float(logits.shape[-1])))
    assert calibration.target.entropy == pytest.approx((entropy(logits) / size).mean().item(), rel=1e-4)


def test_the_encoder_is_as_sure_as_the_vlm_afterwards(stack, calibration):
    assert abs(calibration.reached.entropy - calibration.target.entropy) <= 0.005
    vlm = load_vlm(stack.runs / "vlm" / "model")
    data = load_emoji(stack.data).split("train")
    places = torch.linspace(0, len(data) - 1, 8).round().long()
    features = vlm.tokenizer.features(to_unit_range(data.images[places]))
    codebook = vlm.tokenizer.codebook
    log_probs = calibration.for_encoder(proxy_logits(features, codebook))
    found = (entropy(log_probs) / torch.log(torch.tensor(float(len(codebook))))).mean().item()
    assert found == pytest.approx(calibration.reached.entropy, rel=1e-4)


def test_what_is_written(stack):
    folder = stack.runs / "calibration"
    with Image.open(folder / "profile.png") as image:
        assert image.size[0] > 200
    record = json.loads((folder / "result.json").read_text())
    assert record.keys() == {"command", "calibration", "table1", "protocol", "provenance"}
    assert len(record["protocol"]["prompts"]) == 4
    entropies = next(row for row in record["table1"] if row["statistic"] == "normalised entropy")
    assert entropies["residual"] == pytest.approx(entropies["encoder (calibrated)"] - entropies["VLM"])


def test_the_table_is_written_as_text(stack):
    assert "normalised entropy" in (stack.runs / "calibration" / "table1.md").read_text()


def test_prompts_and_pictures_of_ones_own(stack, softdecode, tmp_path, calibration):
    """The same prompts and pictures from files, in another batch size, give the same calibration."""
    data = load_emoji(stack.data).split("train")
    prompts = [emoji.caption for emoji in held_in_prompts(data, 4)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    for number, place in enumerate(torch.linspace(0, len(data) - 1, 8).round().long().tolist()):
        picture = Image.fromarray(data.images[place].permute(1, 2, 0).numpy())
        picture.save(tmp_path / "pictures" / f"{number}.png")
    result = softdecode(
        *("calibrate", "--model", stack.runs / "vlm" / "model", "--draws", 4, "--batch-size", 4, "--json"),
        *("--prompts", tmp_path / "prompts.txt", "--images", tmp_path / "pictures", "--output", tmp_path / "output"),
    )
    assert result.code == 0
    record = json.loads(result.out)
    assert record == json.loads((tmp_path / "output" / "result.json").read_text())
    assert record["calibration"]["kappa"] == pytest.approx(calibration.kappa, rel=1e-3)
    assert record["calibration"]["epsilon"] == pytest.approx(calibration.epsilon, abs=1e-6)
    assert record["protocol"]["prompts"] == prompts
    assert record["protocol"]["pictures_sha256"] == calibration.protocol["pictures_sha256"]


def test_every_draw_has_a_seed_of_its_own(stack, softdecode, tmp_path, monkeypatch):
    seeds = []
    sample = JanusModel.sample

    def watched(self, prompts, **options):
        seeds.append(list(options["seeds"]))
        return sample(self, prompts, **options)

    monkeypatch.setattr(JanusModel, "sample", watched)
    options = ["--data", stack.data, "--draws", 4, "--batch-size", 3, "--encodes", 2, "--seed", 10]
    result = softdecode("calibrate", "--model", stack.runs / "vlm" / "model", *options, "--output", tmp_path)
    assert result.code == 0
    assert seeds == [[10, 11, 12], [13]]


def test_the_table_is_printed(stack, softdecode, tmp_path):
    options = ["--data", stack.data, "--draws", 2, "--encodes", 2, "--output", tmp_path]
    result = softdecode("calibrate", "--model", stack.runs / "vlm" / "model", *options)
    assert result.code == 0
    assert result.out.startswith("kappa ")
    assert "| normalised entropy" in result.out
    assert result.said == []
