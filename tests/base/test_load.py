"""Which class loads a base, and what is said where none does."""

import json

import pytest

from softdecode.base import load_base
from softdecode.errors import SoftDecodeError


def test_an_unknown_transformer_is_refused_by_name(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps({"_class_name": "PixArtTransformer2DModel"}))
    with pytest.raises(SoftDecodeError, match=r"PixArtTransformer2DModel.*knows FluxTransformer2DModel, SD3"):
        load_base(tmp_path)


def test_a_wrong_folder_says_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(SoftDecodeError, match=r"looked for transformer/ and vae/, found notes\.txt"):
        load_base(tmp_path)
    (tmp_path / "transformer").mkdir()
    with pytest.raises(SoftDecodeError, match=r"looked for config\.json, found nothing"):
        load_base(tmp_path)


def test_a_transformer_without_its_vae_is_refused(make_base, tmp_path):
    make_base().transformer.save_pretrained(tmp_path / "transformer")
    with pytest.raises(SoftDecodeError, match="AutoencoderKL"):
        load_base(tmp_path)
