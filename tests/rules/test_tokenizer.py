"""Text and ids: white space spelled as pieces, special tokens in and around a text, padding, and decoding."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from glm_model import ChatGLMTokenizer, UnsupportedError
from glm_model.text.sentencepiece_text import decode_white_space, encode_white_space

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "tokenizer"


@cache
def tokenizer(version: str = "v1.1") -> ChatGLMTokenizer:
    return ChatGLMTokenizer.from_pretrained(GOLDEN / version)


def ids_of(*tokens: str) -> list[int]:
    return [tokenizer().convert_tokens_to_ids(token) for token in tokens]


# ---- white space


def test_white_space_line_breaks_and_tabs_are_pieces() -> None:
    assert encode_white_space("a\nb\tc") == "a<n>b<|tab|>c"
    assert tokenizer().tokenize("a\n\tb") == ["▁a", "<n>", "<|tab|>", "b"]


@pytest.mark.parametrize("count", [2, 3, 79, 80])
def test_white_space_runs_of_2_to_80_spaces_are_one_piece(count: int) -> None:
    assert encode_white_space(f"a{' ' * count}b") == f"a<|blank_{count}|>b"
    assert tokenizer().tokenize(f"a{' ' * count}b") == ["▁a", f"<|blank_{count}|>", "b"]


@pytest.mark.parametrize(
    ("count", "pieces"),
    [(1, " "), (81, "<|blank_80|> "), (82, "<|blank_80|><|blank_2|>"), (160, "<|blank_80|>" * 2)],
)
def test_white_space_longest_runs_come_first_and_a_single_space_stays(count: int, pieces: str) -> None:
    assert encode_white_space(f"a{' ' * count}b") == f"a{pieces}b"


def test_white_space_pieces_are_turned_back() -> None:
    assert decode_white_space("a<n>b<|tab|>c<|blank_3|>d<|blank_80|>") == "a\nb\tc   d" + " " * 80
    assert decode_white_space("<|blank_1|><|blank_81|><|blank_02|>") == "<|blank_1|><|blank_81|><|blank_02|>"


def test_white_space_survives_a_round_trip() -> None:
    text = "def f():\n\treturn    1\n\n" + " " * 17 + "x"
    assert tokenizer().decode_exact(tokenizer().encode_text(text)) == text


# ---- special tokens


def test_prompt_ends_in_gmask_and_sop() -> None:
    text = tokenizer().encode_text("hello")
    assert tokenizer()("hello").input_ids == [*text, *ids_of("[gMASK]", "<sop>")]
    assert tokenizer()("").input_ids == ids_of("[gMASK]", "<sop>")


def test_prompt_ends_in_gmask_even_where_the_text_holds_a_mask() -> None:
    ids = tokenizer()("a [MASK] b").input_ids
    assert ids[-2:] == ids_of("[gMASK]", "<sop>")
    assert tokenizer().mask_token_id in ids


def test_pair_is_first_gmask_sop_second_eop() -> None:
    first, second = tokenizer().encode_text("hello"), tokenizer().encode_text("world")
    wanted = [*first, *ids_of("[gMASK]", "<sop>"), *second, *ids_of("<eop>")]
    assert tokenizer()("hello", "world").input_ids == wanted


@pytest.mark.parametrize("token", ["[MASK]", "<sop>", "<eop>", "<pad>", "<unk>"])
def test_special_tokens_in_text_are_recognised_and_lose_the_space_around_them(token: str) -> None:
    assert tokenizer().tokenize(f"a {token} b") == ["▁a", token, *tokenizer().tokenize("b")]
    assert tokenizer().tokenize(f"a\n{token}\n\tb") == ["▁a", token, *tokenizer().tokenize("b")]


@pytest.mark.parametrize("token", ["[gMASK]", "[sMASK]", "</s>", "<s>"])
def test_special_tokens_of_other_kinds_are_ordinary_text(token: str) -> None:
    assert token not in tokenizer().tokenize(f"a {token} b")
    assert tokenizer().convert_tokens_to_ids(token) not in tokenizer()(f"a {token} b").input_ids[:-2]


def test_special_tokens_are_never_found_by_the_safe_way() -> None:
    text = "[MASK] [gMASK] <sop> <eop> <pad>"
    assert not {*ids_of("[MASK]", "[gMASK]", "<sop>", "<eop>", "<pad>")} & {*tokenizer().encode_text(text)}


def test_ids_of_the_first_vocabulary_come_after_20000_image_tokens() -> None:
    assert tokenizer("v1.0").encode_text("hello") == [20000 + i for i in tokenizer().encode_text("hello")]
    assert tokenizer("v1.0").convert_ids_to_tokens(19999) == "<image_19999>"


# ---- masks, positions, padding


def test_bare_call_gives_ids_alone() -> None:
    assert [*tokenizer()("hello")] == ["input_ids"]


def padded(count: int) -> tuple[list[int], list[list[int]], list[list[bool]]]:
    """Ids, positions and mask of a text behind so many tokens of padding."""
    length = len(tokenizer()("hello").input_ids) + count
    encoded = tokenizer()("hello", padding="max_length", max_length=length)
    positions, mask = np.asarray(encoded.position_ids), np.asarray(encoded.attention_mask)
    return encoded.input_ids, positions.tolist(), mask[0].tolist()


def test_padding_is_in_front() -> None:
    ids, _, _ = padded(2)
    assert ids == [tokenizer().pad_token_id] * 2 + tokenizer()("hello").input_ids


def test_padding_has_position_0_and_shifts_no_other() -> None:
    ids, positions, _ = padded(2)
    context = len(ids) - 3
    assert positions == [[0, 0, *range(context), context - 1], [0, 0, *[0] * context, 1]]


def test_padding_is_masked_in_rows_and_columns() -> None:
    _, _, masked = padded(2)
    assert all(all(row) for row in masked[:2])
    assert all(row[0] and row[1] for row in masked)


def test_padded_mask_shows_the_context_to_all_and_sop_to_itself() -> None:
    _, _, masked = padded(2)
    assert not any(any(row[2:-1]) for row in masked[2:])
    assert [row[-1] for row in masked[2:]] == [True] * (len(masked) - 3) + [False]


def test_padding_on_the_right_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="padding_side='right'"):
        tokenizer()("hello", padding="max_length", max_length=9, padding_side="right")


def test_padded_positions_stay_at_mask_before_gmask_other_than_the_model() -> None:
    encoded = tokenizer()("a [MASK] b", padding="max_length", max_length=8)
    ids = encoded.input_ids
    row_0, _ = np.asarray(encoded.position_ids).tolist()
    extra = ids.count(tokenizer().pad_token_id)
    assert row_0[-1] == ids.index(tokenizer().mask_token_id) - extra


# ---- decoding


def test_decoding_drops_padding_and_control_tokens() -> None:
    hello = tokenizer().encode_text("hello")
    assert tokenizer().decode([*ids_of("<pad>", "[gMASK]", "<sop>"), *hello, *ids_of("<eop>", "<pad>")]) == "hello"


def test_decoding_drops_padding_even_inside_a_character() -> None:
    first, second = (f"<0x{byte:02X}>" for byte in "é".encode())
    assert tokenizer().decode(ids_of(first, "<pad>", second)) == "é"


def test_decoding_cleans_up_spaces_before_punctuation() -> None:
    ids = tokenizer().encode_text("hello , world ! it 's")
    assert tokenizer().decode(ids) == "hello, world! it's"
    assert tokenizer().decode_exact(ids) == "hello , world ! it 's"


def test_decoding_drops_the_space_in_front_of_the_text_alone() -> None:
    assert tokenizer().decode_exact(ids_of("▁a", "▁b")) == "a b"
    assert tokenizer().decode(ids_of("▁a", "▁b")) == "a b"


def test_decoding_shows_ids_beyond_the_vocabulary_as_images() -> None:
    assert tokenizer().decode([999999]) == "<image_999999>"
    assert tokenizer().convert_ids_to_tokens(-3) == "<image_-3>"


def test_decoding_marks_each_byte_of_a_broken_character() -> None:
    first, second = (f"<0x{byte:02X}>" for byte in "é".encode())
    assert tokenizer().decode_exact(ids_of(first, second)) == "é"
    assert tokenizer().decode_exact(ids_of(first, first)) == "\ufffd\ufffd"
