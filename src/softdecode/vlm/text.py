"""A VLM's text tokenizer: loading it whole, its special ids, and prompts that must not hold them."""

import os
from collections.abc import Sequence

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from softdecode.errors import SoftDecodeError
from softdecode.loading import quiet_libraries


def load_text_tokenizer(
    location: str | os.PathLike[str], required: Sequence[str], revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Load a text tokenizer, and check that it has words and these tokens.

    Raises:
        SoftDecodeError: files missing or damaged, or a tokenizer without words or the required tokens.
    """
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(str(location), revision=revision)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise SoftDecodeError(f"cannot load the text tokenizer of {location}: {reason}") from error
    words = "red apple"  # without tokenizer.json the library makes an empty tokenizer, and says nothing
    read_back = tokenizer.decode(tokenizer.encode(words, add_special_tokens=False))
    absent = [token for token in required if token not in tokenizer.get_vocab()]
    if absent or words not in str(read_back):
        raise SoftDecodeError(
            f"cannot load the text tokenizer of {location}: it lacks words or {', '.join(absent or required)}; "
            "its files are incomplete"
        )
    return tokenizer


def refuse_control_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, owner: str) -> None:
    """Refuse a prompt that holds one of the tokenizer's control tokens.

    Raises:
        SoftDecodeError: it does.
    """
    added = tokenizer.added_tokens_decoder.values()  # some are plain letters, and no control tokens
    control = sorted(token.content for token in added if token.special and token.content in prompt)
    if control:
        raise SoftDecodeError(
            f"the prompt {prompt!r} holds control tokens of {owner}: {', '.join(control)}; leave them out"
        )


def special_id(tokenizer: PreTrainedTokenizerBase, name: str, owner: str) -> int:
    """The id that a tokenizer has for `name`, such as `bos_token_id`.

    Raises:
        SoftDecodeError: it has none.
    """
    value = getattr(tokenizer, name)
    if value is None:
        raise SoftDecodeError(f"the text tokenizer of {owner} has no {name}; its tokenizer files are incomplete")
    return value
