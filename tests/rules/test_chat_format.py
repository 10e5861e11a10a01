"""The conversation format: how a prompt is written, and what becomes of an answer's text."""

import pytest

from glm_model.text.chat_format import ResponseStream, build_prompt, process_response

HISTORY = [("你好", "您好！"), ("Who?", "Me.")]


def test_prompt_without_history_is_the_question_as_it_is() -> None:
    assert build_prompt(" 你好\n") == " 你好\n"
    assert build_prompt("你好", []) == "你好"


def test_rounds_are_numbered_from_0() -> None:
    prompt = build_prompt("3", [("1", "a"), ("2", "b")])
    assert [line for line in prompt.split("\n") if line.startswith("[")] == ["[Round 0]", "[Round 1]", "[Round 2]"]


def test_colons_of_a_prompt_are_full_width() -> None:
    prompt = build_prompt("Q", HISTORY)
    assert "\u95ee\uff1aQ" in prompt
    assert prompt.count("\u7b54\uff1a") == 3
    assert ":" not in prompt


def test_lines_of_a_prompt_are_broken_once_and_the_last_is_left_open() -> None:
    prompt = build_prompt("Q", HISTORY)
    assert "\n\n" not in prompt
    assert prompt.endswith("\n\u7b54\uff1a")


def test_prompt_with_history_as_published() -> None:
    wanted = "[Round 0]\n问：你好\n答：您好！\n[Round 1]\n问：Who?\n答：Me.\n[Round 2]\n问：再见\n答："
    assert build_prompt("再见", HISTORY) == wanted


def test_response_is_stripped() -> None:
    assert process_response(" \n 好\t\n") == "好"


def test_response_shows_2023_for_the_training_date() -> None:
    assert process_response("在[[训练时间]]，[[训练时间]]") == "在2023年，2023年"


@pytest.mark.parametrize(
    ("ascii_mark", "full_width"), [(",", "，"), ("!", "！"), (":", "："), (";", "；"), ("?", "？")]
)
def test_response_punctuation_is_full_width_beside_chinese(ascii_mark: str, full_width: str) -> None:
    assert process_response(f"好{ascii_mark}a") == f"好{full_width}a"
    assert process_response(f"a{ascii_mark}好") == f"a{full_width}好"
    assert process_response(f"a{ascii_mark}b{ascii_mark}") == f"a{ascii_mark}b{ascii_mark}"


def test_response_punctuation_is_seen_beside_u4e00_to_u9fff_only() -> None:
    assert process_response("\u4e00,\u9fff!") == "\u4e00，\u9fff！"
    assert process_response("\u3400,\u3042!\uf900?") == "\u3400,\u3042!\uf900?"


def test_response_full_stops_and_brackets_stay() -> None:
    assert process_response("好.(好)[好]\"好'") == "好.(好)[好]\"好'"


def test_response_punctuation_looks_at_what_a_mark_stands_beside_in_the_answer() -> None:
    """Of two marks in a row each has one Chinese neighbour; of three the middle one has none."""
    assert process_response("好,!好") == "好，！好"
    assert process_response("好,,,好") == "好，,，好"
    assert process_response("好,好,好") == "好，好，好"


def test_response_in_pieces_is_the_response_as_a_whole() -> None:
    whole = " 今天,[[训练时间]]!好 ,ok:是?\n"
    stream = ResponseStream()
    assert "".join([*map(stream.push, whole), stream.finish()]) == process_response(whole)
