"""What the jobs share. The jobs themselves run in tests/cli, one after the other."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from softdecode.data.emoji import Emoji
from softdecode.files import tensor_sha256, write_json, write_tensors
from softdecode.training.jobs import EmojiJob
from softdecode.training.jobs.job import _plain
from softdecode.training.jobs.pictures import PictureJob
from softdecode.training.presets import PRESETS


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
    data = EmojiJob(
        output=data_folder / "run", loop=PRESETS["tiny"]["vae"]().loop, data=data_folder, limit=limit
    ).emoji()
    expected = [0, 2, 4][:limit]
    assert [emoji.label for emoji in data.emoji] == [f"thing {place}" for place in expected]
    assert torch.equal(data.images, make_pictures(5, 16)[expected])
    assert data.digest == tensor_sha256(make_pictures(5, 16)), "the identity is that of the whole data"


@pytest.mark.parametrize(("every", "expected"), [(5, [1, 3]), (0, None)])
def test_previews_show_held_out_emoji(data_folder, every, expected, make_pictures):
    loop = replace(PRESETS["tiny"]["vae"]().loop, preview_every=every)
    shown = PictureJob(output=data_folder / "run", loop=loop, data=data_folder, limit=1).shown()
    assert (None if shown is None else shown.keys) == (expected and tuple(f"noto/{place}" for place in expected))
    assert shown is None or torch.equal(shown.images, make_pictures(5, 16)[expected])


def test_settings_become_plain_json():
    settings = {"output": Path("runs/x"), "betas": (0.9, 0.99), "nested": [{"path": Path("a")}], "n": 1, "none": None}
    expected = {"output": "runs/x", "betas": [0.9, 0.99], "nested": [{"path": "a"}], "n": 1, "none": None}
    assert _plain(settings) == expected
    assert json.loads(json.dumps(_plain(settings))) == expected
