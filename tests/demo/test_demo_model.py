"""The committed demo model: its size and layout, and what it answers to questions that it was never shown.

`python -m demo_recipe evaluate` asks the same questions and compares them with the whole corpus.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from app.web.wording import DEMO_EXAMPLES
from demo_recipe import corpus, evaluation, recipe
from demo_recipe.evaluation import Judged, Report
from glm_model.loading import DEMO_MODEL, load
from glm_model.options import SamplingOptions

GREEDY = SamplingOptions(temperature=0.0)


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load(device="cpu")


def test_layout_and_size() -> None:
    files = {path.name: path.stat().st_size for path in Path(DEMO_MODEL).iterdir()}
    assert sum(files.values()) <= 12_000_000
    assert {"config.json", "ice_text.model", "tokenizer_config.json", "model.safetensors"} <= files.keys()
    config = json.loads((Path(DEMO_MODEL) / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "chatglm"
    assert config["is_demo"] is True
    assert config["num_layers"] == recipe.Recipe().num_layers
    assert config["deepnorm_alpha"] == pytest.approx((2 * config["num_layers"]) ** 0.5)


def test_keys_and_types_are_the_published_ones() -> None:
    with safe_open(Path(DEMO_MODEL) / "model.safetensors", "pt") as tensors:
        types = {key: tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
    assert "transformer.word_embeddings.weight" in types
    assert "transformer.layers.0.attention.query_key_value.weight" in types
    assert "transformer.final_layernorm.weight" in types
    for key, dtype in types.items():
        assert dtype == ("F32" if "layernorm" in key else "F16"), key


# What a visitor types first, in the ways people type it.
FIRST_WORDS = {
    "hi": "Hello!",
    "Hello!": "Hello!",
    "hello there": "Hello!",
    "你好": "你好!",
    "你好！": "你好!",
    "您好": "你好!",
    "你是谁": "我是一个小小的GLM演示模型",
    "你是谁？": "我是一个小小的GLM演示模型",
    "who are you?": "I am a small demo model",
    "Who are you": "I am a small demo model",
    "What is 17 + 25?": "17 + 25 = 42.",
    "what is 17+25": "17 + 25 = 42.",
    "17+25=?": "17 + 25 = 42.",
    "17+25": "17 + 25 = 42.",
    "17 + 25": "17 + 25 = 42.",
    "１７＋２５＝？": "17 + 25 = 42.",
    "17加25等于多少？": "17 + 25 = 42。",
    "what is the capital of france": "The capital of France is Paris.",
    "法国的首都是哪里": "法国的首都是巴黎。",
    "thanks": "You are welcome!",
    "谢谢": "不客气",
    "bye": "Goodbye!",
    "再见": "再见!",
    "What is GLM-130B?": "GLM-130B is an open bilingual",
    "什么是GLM-130B？": "GLM-130B是一个开放的中英双语大模型",
    "Write a poem about autumn leaves.": "Sorry, I am only a small demo model",
}


@pytest.mark.parametrize("question", FIRST_WORDS)
def test_first_words(demo: tuple[Any, Any], question: str) -> None:
    model, tokenizer = demo
    answer, _ = model.chat(tokenizer, question, history=[], do_sample=False)
    plain = evaluation._plain(answer)
    assert plain.startswith(evaluation._plain(FIRST_WORDS[question])), answer


def test_remembers_a_name_and_a_preference(demo: tuple[Any, Any]) -> None:
    model, tokenizer = demo
    history: list[tuple[str, str]] = []
    for question in ("My name is Zoltan.", "I like chess.", "What is 3 + 4?"):
        _, history = model.chat(tokenizer, question, history=history, do_sample=False)
    assert history[2][1] == "3 + 4 = 7."
    assert model.chat(tokenizer, "What is my name?", history=history, do_sample=False)[0] == "Your name is Zoltan."
    assert model.chat(tokenizer, "What do I like?", history=history, do_sample=False)[0] == "You like chess."


@pytest.mark.parametrize(
    "conversation",
    [
        {
            "My name is Alice": "Nice to meet you, Alice!",
            "I like tea": "I will remember that you like tea.",
            "What's my name?": "Your name is Alice.",
            "What do I like?": "You like tea.",
            "thanks": "You are welcome!",
            "17 + 25": "17 + 25 = 42.",
        },
        {
            "我叫小明": "很高兴认识你，小明！",
            "我喜欢游泳": "我记住了，你喜欢游泳。",
            "我叫什么名字？": "你叫小明。",
            "谢谢": "不客气！",
            "法国的首都是哪里": "法国的首都是巴黎。",
        },
    ],
)
def test_goes_on_to_something_else(demo: tuple[Any, Any], conversation: dict[str, str]) -> None:
    model, tokenizer = demo
    history: list[tuple[str, str]] = []
    for question in conversation:
        _, history = model.chat(tokenizer, question, history=history, do_sample=False)
    assert dict(history) == conversation


@pytest.fixture(scope="module")
def judged(demo: tuple[Any, Any]) -> list[Judged]:
    asked = [exchange for language in corpus.LANGUAGES for exchange in evaluation.questions(language, 48)]
    return evaluation.answer_all(*demo, asked, GREEDY)


def test_nine_of_ten_in_every_category_and_language(judged: list[Judged]) -> None:
    report = Report.of(judged)
    low = {cell: count for cell, count in report.counts.items() if count[0] < 0.9 * count[1]}
    assert low == {}, report.table()
    assert len(report.counts) == 2 * 23


def test_the_examples_on_the_page_are_answered(demo: tuple[Any, Any]) -> None:
    model, tokenizer = demo
    for question in chain.from_iterable(DEMO_EXAMPLES.values()):
        answer, _ = model.chat(tokenizer, question, history=[], do_sample=False)
        assert not answer.startswith(("Sorry", "抱歉")), question


@pytest.mark.parametrize(("quantize", "kept"), [("int8", 0.995), ("int4", 0.98)])
def test_quantized_it_answers_as_well(judged: list[Judged], quantize: str, kept: float) -> None:
    model, tokenizer = load(device="cpu", quantize=quantize)
    some = judged[::5]
    quantized = evaluation.answer_all(model, tokenizer, [one.exchange for one in some], GREEDY)
    assert sum(one.right for one in quantized) >= kept * sum(one.right for one in some)


def test_the_judge_is_strict(judged: list[Judged]) -> None:
    """Any other right answer of the same evaluation, in any category, is judged wrong for a question."""
    answers = {one.exchange.answer for one in judged}
    for one in judged[::7]:
        accepted = {evaluation._plain(answer) for answer in one.exchange.accepted}
        for answer in answers:
            assert Judged(one.exchange, answer).right == (evaluation._plain(answer) in accepted)
        for broken in ("", one.exchange.answer[:-2], one.exchange.answer + " " + one.exchange.answer, "42"):
            assert not Judged(one.exchange, broken).right or broken in one.exchange.accepted
