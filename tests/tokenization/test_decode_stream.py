"""The published text, token by token: after each id it is what `decode` makes of all ids so far."""

import random
from typing import Any

import pytest

from glm_model import ChatGLMTokenizer
from glm_model.text.published_stream import PublishedTextStream
from tests.golden.data import CHAT, GOLDEN


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLMTokenizer:
    return ChatGLMTokenizer.from_pretrained(GOLDEN / CHAT)


def assert_same_at_every_token(tokenizer: Any, ids: list[int]) -> None:
    stream = PublishedTextStream(tokenizer)
    for end, token_id in enumerate(ids, start=1):
        assert stream.push(token_id) == tokenizer.decode(ids[:end])


def test_any_ids(tokenizer: ChatGLMTokenizer) -> None:
    """Words, control tokens, padding, halves of characters, image tokens and ids beyond the vocabulary."""
    draw = random.Random(0)
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, tokenizer.gmask_token_id]
    bytes_ = [tokenizer.sp_tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in (0xE4, 0xBD, 0xA0, 0x41)]
    for _ in range(40):
        words = [draw.randrange(tokenizer.vocab_size + 5) for _ in range(30)]
        ids = [draw.choice([word, *special]) if draw.random() < 0.3 else word for word in words]
        ids[5:5] = draw.choices(bytes_, k=6)
        assert_same_at_every_token(tokenizer, ids)


@pytest.mark.parametrize(
    "text", ["  a .b , don't  stop !", "你好<n>\n\t    x = 1", "< n>", "a\n .", "它 's <|blank_2|>"]
)
def test_white_space_and_clean_up(tokenizer: ChatGLMTokenizer, text: str) -> None:
    assert_same_at_every_token(tokenizer, tokenizer.encode_text(text))


def test_white_space_spelled_over_several_pieces(tokenizer: ChatGLMTokenizer) -> None:
    letters = [tokenizer.sp_tokenizer.token_to_id(letter) for letter in "<n>"]
    assert_same_at_every_token(tokenizer, letters)


def test_added_tokens() -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(GOLDEN / CHAT)
    tokenizer.add_tokens(["<tool>"])
    tool = tokenizer.convert_tokens_to_ids("<tool>")
    assert_same_at_every_token(
        tokenizer, [*tokenizer.encode_text("你好 a"), tool, *tokenizer.encode_text(" b\n c"), tool]
    )


def test_no_clean_up_if_the_tokenizer_has_it_off() -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(GOLDEN / CHAT, clean_up_tokenization_spaces=False)
    assert_same_at_every_token(tokenizer, tokenizer.encode_text("a . b"))


def test_another_tokenizer_is_asked(tokenizer: ChatGLMTokenizer) -> None:
    class Shouting(ChatGLMTokenizer):
        def decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> Any:
            return str(super().decode(token_ids, *args, **kwargs)).upper()

    assert_same_at_every_token(Shouting.from_pretrained(GOLDEN / CHAT), tokenizer.encode_text("hello there"))
