"""`softdecode convert-llamagen`: the golden files to a folder that loads."""

from pathlib import Path

import pytest

from softdecode.vlm.registry import load_vlm

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden LlamaGen checkpoints, which are not here")


def options(output, **changes):
    given = {
        "gpt": GOLDEN / "llamagen_c2i" / "c2i_tiny.pt",
        "vq": GOLDEN / "llamagen_vq" / "mini_f32" / "vq_ds16_tiny.pt",
        "output": output,
        "image-size": 128,
        "heads": 4,
        **changes,
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def test_the_folder_loads(softdecode, tmp_path):
    result = softdecode("convert-llamagen", *options(tmp_path / "c2i"))
    assert result.code == 0
    assert {path.name for path in (tmp_path / "c2i").iterdir()} == {"config.json", "gpt.safetensors", "vq.safetensors"}
    assert load_vlm(tmp_path / "c2i").name == "c2i"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"heads": 0}, "--heads must be at least 1"), ({"gpt": "nothing.pt"}, "there is no file nothing.pt")],
)
def test_bad_input_is_one_line_and_code_2(changes, message, softdecode, tmp_path):
    result = softdecode("convert-llamagen", *options(tmp_path / "c2i", **changes))
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "c2i").exists()
