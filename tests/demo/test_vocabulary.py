"""The demo model's vocabulary has the layout of the real one, and its prompts are those of the chat."""

import random
from pathlib import Path

import pytest

from demo_recipe import corpus, recipe, vocabulary
from demo_recipe.exchange import Exchange
from glm_model.loading import DEMO_MODEL
from glm_model.text.tokenizer import ChatGLMTokenizer
from glm_model.training.objective import IGNORED


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLMTokenizer:
    return ChatGLMTokenizer.from_pretrained(DEMO_MODEL)


def test_layout_is_that_of_the_real_file(tokenizer: ChatGLMTokenizer) -> None:
    processor = tokenizer.sp_tokenizer.processor
    pieces = [processor.IdToPiece(index) for index in range(processor.GetPieceSize())]
    assert pieces[:8] == ["<unk>", "<s>", "</s>", "<pad>", "<n>", "▁", ",", "."]
    assert len(pieces) == vocabulary.TEXT_PIECES + 344
    first = vocabulary.TEXT_PIECES
    assert pieces[first : first + 8] == list(vocabulary.CONTROL)
    assert all(processor.IsControl(index) for index in range(first, first + 8))
    assert pieces[first + 8] == "<|tab|>"
    assert pieces[first + 9 : first + 88] == [f"<|blank_{n}|>" for n in range(2, 81)]
    assert pieces[first + 88 :] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert all(processor.IsByte(index) for index in range(first + 88, len(pieces)))


def test_digits_and_chinese_characters_are_single_pieces(tokenizer: ChatGLMTokenizer) -> None:
    processor = tokenizer.sp_tokenizer.processor
    for index in range(vocabulary.TEXT_PIECES):
        text = processor.IdToPiece(index).strip("▁")
        assert len(text) <= 1 or not any(c.isdigit() or "\u4e00" <= c <= "\u9fff" for c in text), text


@pytest.mark.parametrize("text", ["龘 and 𠮷", "👋 你好", "naïve café", "x\ty  z\nend", "ありがとう", "№ ½"])
def test_any_text_survives(tokenizer: ChatGLMTokenizer, text: str) -> None:
    processor = tokenizer.sp_tokenizer.processor
    ids = tokenizer.encode_text(text)
    assert processor.unk_id() not in ids
    assert tokenizer.decode_exact(ids) == tokenizer.decode_exact(tokenizer.encode_text(tokenizer.decode_exact(ids)))
    if text.isascii():
        assert tokenizer.decode_exact(ids) == text


def test_training_is_deterministic_and_small_corpora_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "TEXT_PIECES", 1900)
    texts = [text for e in corpus.exchanges(3, 1500) for text in (e.question, e.answer)]
    assert vocabulary.train(texts) == vocabulary.train(texts)


def test_a_learnt_prompt_is_the_chats_prompt(tokenizer: ChatGLMTokenizer) -> None:
    """The ids before the answer are those that a front-end makes of the same conversation."""
    special = recipe.special_ids(tokenizer)
    for exchange in corpus.exchanges(1, 300):
        example = recipe.example(exchange, tokenizer, special)
        sop = example.input_ids.tolist().index(special.sop)
        prompt = example.input_ids.tolist()[: sop + 1]
        if exchange.is_blank:
            assert special.gmask not in prompt
            assert prompt.count(special.mask) == 1
        else:
            assert prompt == tokenizer.apply_chat_template(
                messages(exchange), add_generation_prompt=True, return_dict=False
            )
        answer = [token for token in example.targets.tolist() if token != IGNORED]
        assert answer[-1] == special.eop
        assert tokenizer.encode_text(exchange.answer) == answer[:-1]


def messages(exchange: Exchange) -> list[dict[str, str]]:
    rounds = [
        message
        for question, answer in exchange.history
        for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    ]
    return [*rounds, {"role": "user", "content": exchange.question}]


def test_the_committed_vocabulary_knows_the_corpus(tokenizer: ChatGLMTokenizer) -> None:
    """Byte pieces are for rare characters: ordinary answers need none."""
    processor = tokenizer.sp_tokenizer.processor
    rng = random.Random(0)
    for _ in range(300):
        exchange = corpus.draw(corpus.task_of(rng), rng, rng.choice(corpus.LANGUAGES))
        if exchange.category not in ("fallback", "repeating"):
            assert not any(processor.IsByte(i) for i in tokenizer.encode_text(exchange.answer)), exchange.answer


def test_the_vocabulary_file_is_part_of_the_model() -> None:
    assert (Path(DEMO_MODEL) / "ice_text.model").stat().st_size < 400_000
