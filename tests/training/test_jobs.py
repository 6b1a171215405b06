"""The training jobs' settings and what they share. The jobs themselves run in tests/cli, one after the other."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from softdecode.data.emoji import Emoji
from softdecode.files import tensor_sha256, write_json, write_tensors
from softdecode.images import to_unit_range
from softdecode.training.jobs import VARIANTS, Job, _plain, encode_tokens
from softdecode.training.presets import PRESETS
from softdecode.training.tokenizer import TokenizerConfig, build_tokenizer
from softdecode.vlm.base import nearest_tokens
from softdecode.vlm.janus import JanusTokenizer


@pytest.fixture
def data_folder(tmp_path, make_pictures):
    """Five pictures, the second and fourth of the test split."""
    images = make_pictures(5, 16)
    emoji = [
        Emoji(
            style="noto", code=str(place), label=f"thing {place}", keywords=("a", "b"), family=str(place), split=split
        )
        for place, split in enumerate(("train", "test", "train", "test", "train"))
    ]
    write_tensors(tmp_path / "emoji.safetensors", {"images": images})
    content = {"digest": tensor_sha256(images), "emoji": [dataclasses.asdict(record) for record in emoji]}
    write_json(tmp_path / "emoji.json", content)
    return tmp_path


@pytest.mark.parametrize("limit", [None, 2, 10])
def test_jobs_train_on_the_train_split(data_folder, limit, make_pictures):
    data = Job(output=data_folder / "run", loop=PRESETS["tiny"]["vae"]().loop, data=data_folder, limit=limit).emoji()
    expected = [0, 2, 4][:limit]
    assert [emoji.label for emoji in data.emoji] == [f"thing {place}" for place in expected]
    assert torch.equal(data.images, make_pictures(5, 16)[expected])
    assert data.digest == tensor_sha256(make_pictures(5, 16)), "the identity is that of the whole data"


def test_settings_become_plain_json():
    settings = {"output": Path("runs/x"), "betas": (0.9, 0.99), "nested": [{"path": Path("a")}], "n": 1, "none": None}
    expected = {"output": "runs/x", "betas": [0.9, 0.99], "nested": [{"path": "a"}], "n": 1, "none": None}
    assert _plain(settings) == expected
    assert json.loads(json.dumps(_plain(settings))) == expected


def test_tokens_do_not_depend_on_the_batch(make_pictures):
    torch.manual_seed(0)
    config = TokenizerConfig(codes=32, code_dim=4, base_channels=32, channel_multiplier=(1, 1, 1))
    tokenizer = JanusTokenizer(build_tokenizer(config, 16, 32).eval())
    images = make_pictures(7, 16)
    found = encode_tokens(tokenizer, images, batch_size=3)
    assert found.shape == (7, 4, 4)
    assert found.dtype == torch.int64
    features = tokenizer.features(to_unit_range(images))
    assert torch.equal(found, nearest_tokens(features, tokenizer.codebook))


def test_the_variants_differ_in_one_thing_from_the_papers():
    """The table's rows: each differs from the paper's soft, calibrated decoder in mode or in calibration."""
    assert {name: (variant.mode, variant.calibrated) for name, variant in VARIANTS.items()} == {
        "hard": ("hard", True),
        "soft-raw": ("soft", False),
        "soft": ("soft", True),
        "joint": ("joint", True),
    }


# --- presets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_the_jobs_of_a_preset_fit_together(preset):
    tokenizer, vae, vlm, decoder = (PRESETS[preset][name]() for name in ("tokenizer", "vae", "vlm", "decoder"))
    assert vlm.tokenizer == tokenizer.output / "model"
    assert decoder.vlm == vlm.output / "model"
    assert decoder.vae == vae.output / "model"
    assert tokenizer.hidden_size == vlm.model.hidden_size
    assert len({job.output for job in (tokenizer, vae, vlm, decoder)}) == 4
    # One latent token for each VQ token: the condition needs no interpolation (spec section 3).
    assert 2 ** (len(tokenizer.model.channel_multiplier) - 1) == 2 * 2 ** (len(vae.model.channels) - 1)
    assert decoder.transformer.head_dim % 8 == 0
    assert decoder.hidden_channels % 8 == 0
    # Each variant gets pictures of every batch.
    assert decoder.loop.batch_size >= len(VARIANTS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_made_anew(preset):
    for make in PRESETS[preset].values():
        assert make() == make()
        assert make() is not make()
