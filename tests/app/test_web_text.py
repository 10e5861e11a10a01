"""What the page says, in both languages."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from app.serving.model_info import ModelInfo
from app.serving.reply import Failed
from app.web import wording
from app.web.wording import BLANKS, DEMO_BLANKS, DEMO_EXAMPLES, EN, EXAMPLES, ZH, Words, pick_language

DEMO = ModelInfo("demo", True, "cpu", 3_100_000, None, 2048)
LARGE = ModelInfo("chatglm-6b", False, "cuda:0", 6_173_286_400, "int4", 2048)


def test_both_languages_fill_in_the_same_things() -> None:
    for each in fields(Words):
        english, chinese = getattr(EN, each.name), getattr(ZH, each.name)
        assert english.strip()
        assert chinese.strip()
        assert re.findall(r"{\w+}", english) == re.findall(r"{\w+}", chinese), each.name


def test_each_language_is_itself() -> None:
    chinese = re.compile("[\u4e00-\u9fff]")
    assert not [each.name for each in fields(Words) if chinese.search(getattr(EN, each.name))]
    same = {each.name for each in fields(Words) if not chinese.search(getattr(ZH, each.name))}
    assert same == {"page_top_p", "page_top_k"}
    for examples in (DEMO_EXAMPLES, EXAMPLES, DEMO_BLANKS, BLANKS):
        assert all(chinese.search(example) for example in examples["zh"])
        assert not any(chinese.search(example) for example in examples["en"])


@pytest.mark.parametrize(
    ("setting", "accepted", "language"),
    [
        ("auto", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("auto", "ZH", "zh"),
        ("auto", "zh-Hant-HK", "zh"),
        ("auto", "en-US,en;q=0.9,zh;q=0.8", "en"),
        ("auto", "fr", "en"),
        ("auto", "", "en"),
        ("auto", None, "en"),
        ("zh", "en-US", "zh"),
        ("en", "zh-CN", "en"),
    ],
)
def test_the_language_is_the_servers_choice_or_the_browsers(setting: str, accepted: str | None, language: str) -> None:
    assert pick_language(setting, accepted) == language


def test_the_interface_covers_what_gradio_calls_chinese() -> None:
    words = wording.interface("auto")
    assert set(words) == {"en", "zh-CN", "zh-TW"}
    assert words["zh-CN"]["page_new_chat"] == ZH.page_new_chat
    assert words["en"]["page_new_chat"] == EN.page_new_chat
    assert wording.interface("zh")["en"] == words["zh-CN"]
    assert wording.interface("en")["zh-TW"] == words["en"]


def test_models_are_described() -> None:
    assert wording.describe(DEMO) == "demo · 3.1M · cpu"
    assert wording.describe(LARGE) == "chatglm-6b · 6.17B · int4 · cuda:0"


def test_the_demo_model_gets_examples_it_can_answer() -> None:
    assert wording.examples(DEMO, "zh") == DEMO_EXAMPLES["zh"]
    assert wording.examples(LARGE, "en") == EXAMPLES["en"]


def test_places_in_the_queue_and_dropped_rounds_are_counted() -> None:
    assert "next in line" in wording.queue_line(EN, 1)
    assert "3 before you" in wording.queue_line(EN, 3)
    assert "3 位" in wording.queue_line(ZH, 3)
    assert "first round" in wording.trim_line(EN, 1)
    assert "first 4 rounds" in wording.trim_line(EN, 4)


@pytest.mark.parametrize("kind", ["too_long", "memory", "closed", "error"])
def test_every_failure_has_a_sentence_of_ours(kind: str) -> None:
    failed = Failed("The engine's own sentence with /a/path", kind)  # type: ignore[arg-type]
    told = {wording.failure_line(words, failed, 512, DEMO) for words in (EN, ZH)}
    assert len(told) == 2
    assert not [line for line in told if "/a/path" in line]


@pytest.mark.parametrize(
    "kind", ["no_text", "too_many_blanks", "too_long", "unknown_mask", "memory", "closed", "error"]
)
def test_every_failure_to_fill_has_a_sentence_of_ours(kind: str) -> None:
    failed = Failed("The engine's own sentence with /a/path", kind, 100, 64)  # type: ignore[arg-type]
    told = {wording.fill_failure_line(words, failed) for words in (EN, ZH)}
    assert len(told) == 2
    assert not [line for line in told if "/a/path" in line]
    if kind.startswith("too"):
        assert all("100" in line and "64" in line for line in told)


def test_blanks_of_all_kinds_are_seen() -> None:
    assert all(map(wording.has_blank, ("a [MASK]", "[gMASK]", "b[sMASK]c")))
    assert not any(map(wording.has_blank, ("", "a", "[mask]", "MASK", "[xMASK]")))


def test_a_message_that_is_too_long_is_counted() -> None:
    failed = Failed("", "too_long", tokens=3000, limit=2032)
    assert wording.failure_line(EN, failed, 2048, DEMO).endswith("Shorten it. It has 3000 tokens; 2032 fit.")
    assert wording.failure_line(ZH, failed, 512, DEMO).endswith("它有 3000 个词元，最多 2032 个。")


def test_a_longer_length_is_advised_only_where_there_is_one() -> None:
    for words in (EN, ZH):
        assert wording.too_long_line(words, 512, DEMO) == words.too_long
        assert wording.too_long_line(words, 2048, DEMO) == words.too_long_full
        assert wording.length_line(words, 512, DEMO) == words.length.format(count=512)
        assert wording.length_line(words, 2048, DEMO) == words.length_full.format(count=2048)
