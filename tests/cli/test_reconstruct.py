"""`softdecode reconstruct`: picture files through the tokenizer and back."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from softdecode.images import from_pil
from softdecode.pipeline import SoftDecodePipeline
from softdecode.vlm.base import nearest_tokens


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = []
    for name in ("one.png", "two.webp"):
        image = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((64, 64))
        image.save(folder / name, lossless=True) if name.endswith("webp") else image.save(folder / name)
        paths.append(folder / name)
    return paths


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@torch.no_grad()
def test_pictures_are_decoded_both_ways(stack, softdecode, pictures, tmp_path):
    result = softdecode("reconstruct", *pictures, *stack.models, "--seed", 3, "--output", tmp_path)
    assert result.code == 0
    assert result.said == []
    names = {f"{name}-{kind}.png" for name in ("one", "two") for kind in ("vq", "soft")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"comparison.png", "result.json"}
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["command"] == "reconstruct"
    assert record["images"] == [str(path) for path in pictures]
    assert (record["seeds"], record["steps"], record["resize"]) == ([3, 4], 3, False)
    pipe = SoftDecodePipeline.from_pretrained(stack.decoders / "joint", vlm=stack.vlm)
    tokenizer = pipe.vlm.tokenizer
    for place, path in enumerate(pictures):
        with Image.open(path) as image:
            batch = from_pil(image)[None]
        tokens = nearest_tokens(tokenizer.features(batch), tokenizer.codebook)
        vq = (tokenizer.decode(tokens)[0].permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(vq - pixels(tmp_path / f"{path.stem}-vq.png")).max() <= 0.51
        soft = pipe.reconstruct(batch, seed=3 + place, output_type="pt").images[0].permute(1, 2, 0).numpy()
        assert np.abs(soft.astype(int) - pixels(tmp_path / f"{path.stem}-soft.png")).max() <= 1


def test_other_sizes_are_resized_where_allowed(stack, softdecode, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (200, 90), "red").save(wide)
    output = tmp_path / "output"
    result = softdecode("reconstruct", wide, *stack.models, "--resize", "--json", "--output", output)
    assert result.code == 0
    assert json.loads(result.out) == json.loads((output / "result.json").read_text())
    assert json.loads(result.out)["resize"] is True
    assert pixels(output / "wide-soft.png").shape == (64, 64, 3)
    # The sheet's first column is what was encoded: after resizing.
    assert (pixels(output / "comparison.png")[28 : 28 + 128, 190 : 190 + 128] == [255, 0, 0]).all()
