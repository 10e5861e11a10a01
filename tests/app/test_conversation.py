"""Trimming by tokens, and files that give back what was put in, whatever it was."""

import json
import random
from pathlib import Path

import pytest

from app.serving.conversation import (
    MAX_IMPORT_CHARS,
    ConversationError,
    Message,
    check_messages,
    from_json,
    from_markdown,
    to_json,
    to_markdown,
    trim,
)
from app.web.wording import ZH, import_line


def talk(*contents: str) -> list[Message]:
    """Messages by the user and the assistant in turn."""
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(contents)]


def assert_said_in_chinese(error: ConversationError) -> None:
    """The page has a Chinese sentence for what is wrong with a file."""
    said = import_line(ZH, error)
    assert str(error) not in said
    assert "{" not in said


def characters(messages: list[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


# --- trimming


def test_what_fits_is_left_alone() -> None:
    messages = talk("aaa", "bb", "c")
    assert trim(messages, characters, 6) == (messages, 0)


@pytest.mark.parametrize(("budget", "dropped"), [(10, 0), (9, 1), (7, 1), (6, 2), (3, 2), (2, 3), (1, 3), (0, 3)])
def test_the_oldest_rounds_go_and_no_more_than_needed(budget: int, dropped: int) -> None:
    messages = talk("aa", "b", "cc", "dd", "e", "f", "g")  # rounds of 3, 4, 2, 1 -> left: 10, 7, 3, 1
    expected = {0: 10, 1: 7, 2: 3, 3: 1}
    kept, rounds = trim(messages, characters, budget)
    assert rounds == dropped
    assert characters(kept) == expected[dropped]
    assert kept == messages[2 * dropped :]


def test_the_last_round_stays_even_if_it_does_not_fit() -> None:
    assert trim(talk("a", "b", "long"), characters, 1) == (talk("long"), 1)
    assert trim(talk("long"), characters, 1) == (talk("long"), 0)
    assert trim([], characters, 1) == ([], 0)


def test_a_round_holds_all_up_to_the_next_question() -> None:
    odd: list[Message] = [
        {"role": "assistant", "content": "Welcome."},
        {"role": "user", "content": "1"},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": "3"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "5"},
    ]
    assert trim(odd, characters, 4) == (odd[2:], 1)
    assert trim(odd, characters, 3) == (odd[5:], 2)


def test_trimming_equals_dropping_one_by_one() -> None:
    chance = random.Random(1)
    for _ in range(300):
        messages = talk(*("x" * chance.randrange(5) for _ in range(chance.randrange(1, 12))))
        budget = chance.randrange(30)
        rest, dropped = messages, 0
        while characters(rest) > budget and len(rest) > 2:
            rest, dropped = rest[2:], dropped + 1
        assert trim(messages, characters, budget) == (rest, dropped)


def test_a_long_conversation_is_counted_a_few_times_only() -> None:
    counted = []

    def count(messages: list[Message]) -> int:
        counted.append(len(messages))
        return characters(messages)

    kept, dropped = trim(talk(*["x"] * 20_001), count, 100)
    assert characters(kept) == 99
    assert dropped == 9_951
    assert len(counted) <= 16
    assert sum(counted) < 3 * 20_001  # tokens tokenized in all: linear, not quadratic


# --- files

HOSTILE = [
    "",
    "\n",
    "\n\n",
    "  spaces  ",
    "你好，世界 👨‍👩‍👧",
    "## User",
    "## Assistant\n\nnot really",
    "\\## User",
    "\\\\## User\n## User\n\\## Assistant",
    "text\n## User\t \nmore",
    "## User \r\nWindows\r\n## Assistant\r\n",
    "old Mac\rline\r## User\rend",
    "# Title\n## Users\n### User\n ## User",
    "```python\n## User\n```",
    "```\nan open fence",
    "tabs\tand\x00control\x1b[31m",
    "\ufeffmark",
    "a\u2028b\u2029c\x85d\x0b## User",
    "ends with\n",
    "\nstarts with",
    '{"role": "user"}',
    "\\",
]
ALPHABET = [
    "## User",
    "## Assistant",
    "\\",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    " ",
    "#",
    "```",
    "x",
    "字",
    "\t",
    "\\## User",
]


def random_talks(count: int) -> list[list[Message]]:
    chance = random.Random(20230314)
    return [
        [
            {
                "role": chance.choice(["user", "assistant"]),
                "content": "".join(chance.choices(ALPHABET, k=chance.randrange(9))),
            }
            for _ in range(chance.randrange(1, 6))
        ]
        for _ in range(count)
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_survives_both_formats(text: str) -> None:
    for messages in (talk(text), talk(text, text, "end"), talk("start", text)):
        assert from_markdown(to_markdown(messages)) == messages
        assert from_json(to_json(messages)) == messages


def test_random_conversations_survive_both_formats(tmp_path: Path) -> None:
    for messages in random_talks(5000):
        assert from_markdown(to_markdown(messages)) == messages
        assert from_json(to_json(messages)) == messages


def test_markdown_reads_well() -> None:
    assert to_markdown(talk("Hi", "Hello\n\n## User\n")) == "## User\n\nHi\n\n## Assistant\n\nHello\n\n\\## User\n\n\n"


@pytest.mark.parametrize("edit", [
    lambda text: text.replace("\n", "\r\n"),
    str.rstrip,
    lambda text: text.rstrip() + "\n",
    lambda text: "\n" + text,
    lambda text: text.replace("## User\n\n", "## User\n").replace("\n\n##", "\n##"),
])  # fmt: skip
def test_markdown_after_an_editor(edit) -> None:  # type: ignore[no-untyped-def]
    messages = talk("Hi\nthere", "Hello", "Bye")
    assert from_markdown(edit(to_markdown(messages))) == messages


@pytest.mark.parametrize("text", ["", "hello", "# User\n\nhi", "hello\n\n## User\n\nhi", "## user\n\nhi"])
def test_markdown_that_is_no_conversation(text: str) -> None:
    with pytest.raises(ConversationError, match="## User") as caught:
        from_markdown(text)
    assert_said_in_chinese(caught.value)


def test_json_says_what_it_is() -> None:
    document = json.loads(to_json(talk("你好")))
    assert document == {"format": "glm-conversation", "version": 1, "messages": talk("你好")}
    assert "你好" in to_json(talk("你好"))


def test_json_of_other_tools_is_read() -> None:
    assert from_json('[{"role": "user", "content": "hi", "name": "me"}]') == talk("hi")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ('{"format":\n oops}', "line 2"),
        ("[" * 100_000, "not valid JSON"),
        ("[" + "1" * 5000 + "]", "not valid JSON"),
        ("{}", "not a saved conversation"),
        ("[" + "9" * 5000 + "]", "not valid JSON"),
        ("3", "not a saved conversation"),
        ('{"format": "glm-conversation", "version": 2, "messages": []}', "version 2"),
        ('{"format": "glm-conversation", "version": 1}', "must be a list"),
        ('[{"role": "user", "content": "a"}, 7]', "message 2 must be an object"),
        ('[{"role": "system", "content": "a"}]', "message 1: the role .* 'system'"),
        ('[{"role": "user", "content": null}]', "message 1: the content must be a text, not NoneType"),
    ],
)
def test_json_that_is_no_conversation(text: str, reason: str) -> None:
    with pytest.raises(ConversationError, match=reason) as caught:
        from_json(text)
    assert_said_in_chinese(caught.value)


@pytest.mark.parametrize("read", [from_json, from_markdown])
def test_a_huge_file_is_refused(read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConversationError, match=str(MAX_IMPORT_CHARS)) as caught:
        read("x" * (MAX_IMPORT_CHARS + 1))
    assert_said_in_chinese(caught.value)


def test_half_characters_become_whole_ones() -> None:
    assert from_json('[{"role": "user", "content": "\\ud83d \\ud83d\\ude00"}]') == talk("\ufffd 😀")
    assert check_messages(talk("\ud83d\ude00")) == talk("😀")
