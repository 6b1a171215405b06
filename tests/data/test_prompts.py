"""Prompt lists: files of prompts, and captions in a fixed order."""

import hashlib

import pytest
import torch

from softdecode.data.emoji import Emoji, EmojiData
from softdecode.data.prompts import held_in_prompts, read_prompts
from softdecode.errors import SoftDecodeError


def data_of(labels):
    emoji = tuple(
        Emoji(style="noto", code=str(place), label=label, keywords=(), family="", split="train")
        for place, label in enumerate(labels)
    )
    return EmojiData(images=torch.zeros(len(emoji), 3, 1, 1, dtype=torch.uint8), emoji=emoji, digest="")


def test_captions_come_in_the_order_of_their_hashes():
    labels = [f"thing {number}" for number in range(30)]
    found = [emoji.caption for emoji in held_in_prompts(data_of(labels), 30)]
    assert found == sorted((f"noto {label}" for label in labels), key=lambda c: hashlib.sha256(c.encode()).hexdigest())


def test_a_shorter_draw_is_the_beginning_of_a_longer_one_whatever_the_datas_order():
    labels = [f"thing {number}" for number in range(30)]
    longer = [emoji.caption for emoji in held_in_prompts(data_of(labels), 20)]
    shorter = [emoji.caption for emoji in held_in_prompts(data_of(labels[::-1]), 5)]
    assert shorter == longer[:5]


def test_captions_are_distinct():
    data = data_of(["a", "b", "a", "c"])
    assert sorted(emoji.caption for emoji in held_in_prompts(data, 3)) == ["noto a", "noto b", "noto c"]
    with pytest.raises(SoftDecodeError, match="3 distinct captions, 4 were asked for"):
        held_in_prompts(data, 4)


def test_a_text_file_has_a_prompt_on_each_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("  a red apple \n\n \na blüe fish\nthird\n", encoding="utf-8")
    assert read_prompts(path, 2) == ["a red apple", "a blüe fish"]
    assert read_prompts(path, 3)[-1] == "third"
    with pytest.raises(SoftDecodeError, match="holds 3 prompts, 4 were asked for"):
        read_prompts(path, 4)


def test_json_lines_have_a_field(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"tag": "x", "prompt": "a red apple"}\n\n{"prompt": "two"}\n')
    assert read_prompts(path, 2) == ["a red apple", "two"]


@pytest.mark.parametrize("content", ['{"text": "a"}', "plain text", '["a"]', '"prompt"', "3"])
def test_other_json_is_refused(tmp_path, content):
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(SoftDecodeError, match="is not a file of prompts"):
        read_prompts(path, 1)


def test_prompts_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": 5}')
    with pytest.raises(SoftDecodeError, match="is not a file of prompts"):
        read_prompts(path, 1)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(SoftDecodeError, match="No such file or directory"):
        read_prompts(tmp_path / "nothing.txt", 1)
    with pytest.raises(SoftDecodeError, match="Is a directory"):
        read_prompts(tmp_path, 1)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SoftDecodeError, match="is not a file of prompts"):
        read_prompts(tmp_path / "binary.txt", 1)
