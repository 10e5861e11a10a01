"""Rules that hold for any text and any ids, tried on random ones and on vocabularies of other kinds."""

import numpy as np
import pytest

from glm_model.text.incremental_decoder import IncrementalDecoder
from glm_model.text.sentencepiece_text import decode_white_space, encode_white_space
from glm_model.text.tokenizer import ChatGLMTokenizer
from tests.tokenization.data import (
    CONTROL_TOKENS,
    OTHER_KINDS,
    VERSIONS,
    golden,
    random_ids,
    random_texts,
    train,
)


@pytest.fixture(scope="module", params=[*VERSIONS, *OTHER_KINDS])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatGLMTokenizer:
    if request.param in VERSIONS:
        return golden(request.param)
    folder = train(tmp_path_factory.mktemp("vocabulary"), **OTHER_KINDS[request.param])
    return ChatGLMTokenizer.from_pretrained(folder)


def test_white_space_is_spelled_as_the_original_spells_it() -> None:
    for text in random_texts(500, "white space"):
        wanted = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        for length in range(80, 1, -1):
            wanted = wanted.replace(" " * length, f"<|blank_{length}|>")
        assert encode_white_space(text) == wanted


def test_white_space_is_restored_as_the_original_restores_it() -> None:
    for text in random_texts(500, "white space"):
        text = encode_white_space(text) + "<|blank_1|><|blank_02|><|blank_81|>"
        wanted = text.replace("<n>", "\n").replace("<|tab|>", "\t")
        for length in range(2, 81):
            wanted = wanted.replace(f"<|blank_{length}|>", " " * length)
        assert decode_white_space(text) == wanted


def test_encode_text_never_gives_a_control_token(tokenizer: ChatGLMTokenizer) -> None:
    control = {tokenizer.convert_tokens_to_ids(token) for token in [*CONTROL_TOKENS, "<pad>", "<s>", "</s>"]}
    for text in random_texts(300, "control"):
        assert not control & set(tokenizer.encode_text(text)), text


def test_tokens_and_ids_agree(tokenizer: ChatGLMTokenizer) -> None:
    for text in random_texts(300, "agree"):
        assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == tokenizer.encode(
            text, add_special_tokens=False
        )
        pieces = tokenizer.tokenize(text, split_special_tokens=True)
        assert tokenizer.convert_tokens_to_ids(pieces) == tokenizer.encode_text(text)


def test_special_tokens_in_text_cut_it_and_eat_white_space(tokenizer: ChatGLMTokenizer) -> None:
    mask, eop = tokenizer.mask_token_id, tokenizer.eos_token_id
    ids = tokenizer.encode(" a\u3000 [MASK] \n\t b<eop>c ", add_special_tokens=False)
    texts = [tokenizer.encode_text(text) for text in (" a", "b", "c ")]
    assert ids == [*texts[0], mask, *texts[1], eop, *texts[2]]


@pytest.mark.parametrize("version", VERSIONS)
def test_text_comes_back(version: str) -> None:
    """Text that no normaliser touches; only a single space at an end is SentencePiece's own."""
    tokenizer = golden(version)
    for text in ("你好👋", "def f(x):\n    return x  # why ?\n\n\tdone .", "  \n  lead", "a  b   c"):
        assert tokenizer.decode_exact(tokenizer.encode_text(text)) == text
        assert tokenizer.decode_exact(tokenizer.encode(text)) == text


def test_halves_of_characters_do_not_break_encoding(tokenizer: ChatGLMTokenizer) -> None:
    assert tokenizer.encode_text("a\ud83d\ude00b") == tokenizer.encode_text("a😀b")
    assert tokenizer.encode_text("a\ud83db") == tokenizer.encode_text("a\ufffdb")
    assert tokenizer.encode("\udc00") == tokenizer.encode("\ufffd")


def test_exact_text_is_the_uncleaned_published_text(tokenizer: ChatGLMTokenizer) -> None:
    for ids in random_ids(tokenizer, 500, "exact"):
        published = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert tokenizer.decode_exact(ids) == published, tokenizer.convert_ids_to_tokens(ids)
        assert tokenizer.decode_exact(np.asarray(ids)) == published


def test_spaces_at_the_start_are_dropped_as_sentencepiece_does(tokenizer: ChatGLMTokenizer) -> None:
    space, control, letter = tokenizer.convert_tokens_to_ids(["▁", "[gMASK]", "a"])
    for ids in ([space] * 3, [space, space, letter], [control, space, control, space, letter, space], [letter, space]):
        assert tokenizer.decode_exact(ids) == tokenizer.sp_tokenizer.decode(ids)


def test_only_white_space_pieces_become_white_space() -> None:
    tokenizer = golden("v1.1")
    spelled = [tokenizer.convert_tokens_to_ids(piece) for piece in ("<", "n", ">", "<n>")]
    assert tokenizer.decode(spelled) == "\n\n"
    assert tokenizer.decode_exact(spelled) == "<n>\n"


def test_pieces_of_text_join_to_the_whole(tokenizer: ChatGLMTokenizer) -> None:
    for number, ids in enumerate(random_ids(tokenizer, 500, "stream")):
        decoder, step = IncrementalDecoder(tokenizer), number % 3 + 1
        texts = [decoder.push(ids[start : start + step]) for start in range(0, len(ids), step)]
        assert "".join(texts) + decoder.finish() == tokenizer.decode_exact(ids)


def test_a_character_comes_whole_and_at_once() -> None:
    tokenizer = golden("v1.0")
    decoder = IncrementalDecoder(tokenizer)
    a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
    emoji = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in "😀".encode()])
    assert [decoder.push([id_]) for id_ in [a, *emoji, b]] == ["a", "", "", "", "😀", "b"]
    assert [decoder.push([id_]) for id_ in [*emoji[:2], b]] == ["", "", "\ufffd\ufffdb"]
    assert [decoder.push(emoji[:3]), decoder.push([tokenizer.pad_token_id]), decoder.push(emoji[3:])] == ["", "", "😀"]
    assert [decoder.push(emoji[:3]), decoder.finish(), decoder.finish()] == ["", "\ufffd" * 3, ""]


def test_ids_of_no_piece_are_shown_as_images() -> None:
    tokenizer = golden("v1.0")
    beyond = tokenizer.vocab_size + 3
    assert tokenizer.convert_ids_to_tokens([0, 19999, beyond]) == ["<image_0>", "<image_19999>", f"<image_{beyond}>"]
    assert tokenizer.convert_tokens_to_ids(["<image_0>", "<image_19999>"]) == [0, 19999]
    assert tokenizer.convert_tokens_to_ids(["<image_x>", "<image_>", "nothing like it"]) == [20000] * 3
    assert tokenizer.decode([7, beyond]) == tokenizer.decode_exact([7, beyond]) == f"<image_7><image_{beyond}>"
