"""Prompt lists: files, and the emoji captions a model was trained on, in a fixed order."""

import hashlib
import json
import os
from pathlib import Path

from softdecode.data.emoji import Emoji, EmojiData
from softdecode.errors import SoftDecodeError


def held_in_prompts(data: EmojiData, count: int) -> list[Emoji]:
    """`count` records with distinct captions, in the order of their captions' hashes: a fixed draw from all styles.

    Raises:
        SoftDecodeError: there are fewer.
    """
    distinct = {emoji.caption: emoji for emoji in data.emoji}
    if count > len(distinct):
        raise SoftDecodeError(f"the data has {len(distinct)} distinct captions, {count} were asked for")
    return [distinct[caption] for caption in sorted(distinct, key=_digest)[:count]]


def read_prompts(path: str | os.PathLike[str], count: int) -> list[str]:
    """The first `count` prompts of a file: a line each, or JSON lines with a field "prompt".

    Raises:
        SoftDecodeError: the file cannot be read, or holds fewer prompts.
    """
    path = Path(path)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        prompts = [json.loads(line)["prompt"] if path.suffix == ".jsonl" else line.strip() for line in lines]
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise TypeError("a prompt is not a string")
    except OSError as error:
        raise SoftDecodeError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SoftDecodeError(
            f'{path} is not a file of prompts (text, or JSON lines with "prompt"): {error}'
        ) from error
    if len(prompts) < count:
        raise SoftDecodeError(f"{path} holds {len(prompts)} prompts, {count} were asked for")
    return prompts[:count]


def _digest(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()
