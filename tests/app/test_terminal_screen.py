"""Answers on a terminal: drawn piece by piece they must end as if drawn at once, whatever the window does."""

import io
import random
import re
from itertools import pairwise

import pytest
from rich.console import Console, ConsoleDimensions

from app.terminal.markdown import render, split
from app.terminal.screen import MarkdownView, PlainView
from app.terminal.wrap import breaks
from glm_model.text.sanitize import harmless
from tests.app.fake_screen import Screen, cells
from tests.model.test_sanitize import HOSTILE

CODES = re.compile(r"\x1b\[[\d;]*m")
ANSWER = """\
# 快速排序 Quick sort
床前明月光
疑是地上霜 **粗体** and `code`, a fairly long line of English text that has to wrap in a narrow window.

1. 选择一个基准元素
2. 分区
   - 小于
   - 大于

> 引用
> of two lines

```python
def quicksort(items):
    if len(items) < 2:
        return items
```

| 语言 | speed |
|------|------:|
| C    | 1     |

Setext
------
The end \\( a_1 \\times b_2 \\) and [a link](https://example.com/x).
"""


def no_pause(seconds: float) -> None:
    pass


def draw(pieces: list[str], width: int = 60, height: int = 20) -> Screen:
    screen = Screen(width, height)
    view = MarkdownView(screen.console(), placeholder="...", pause=no_pause)
    for piece in pieces:
        view.feed(piece)
    view.close()
    return screen


def cut(text: str, chance: random.Random) -> list[str]:
    places = sorted(chance.choices(range(len(text) + 1), k=chance.randrange(60)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def lines_of(text: str, width: int) -> str:
    """What must stand on the screen, without any streaming."""
    console = Screen(width).console()
    finished, last = split(text)
    drawn = [lines for block in [*finished, last] if (lines := render(block, console))]
    return "\n\n".join("\n".join(CODES.sub("", line).rstrip() for line in lines) for lines in drawn)


# --- what Markdown looks like


def shown(markdown: str, width: int = 60) -> str:
    return draw([markdown], width).text()


def test_an_answer_looks_as_it_should() -> None:
    assert shown(ANSWER, 50) == (
        "快速排序 Quick sort\n\n"
        "床前明月光\n"
        "疑是地上霜 粗体 and code, a fairly long line of\n"
        "English text that has to wrap in a narrow window.\n\n"
        " 1. 选择一个基准元素\n"
        " 2. 分区\n"
        "     • 小于\n"
        "     • 大于\n\n"
        "▌ 引用\n"
        "▌ of two lines\n\n"
        "def quicksort(items):\n"
        "    if len(items) < 2:\n"
        "        return items\n\n"
        " 语言  speed\n"
        " ───────────\n"
        " C         1\n\n"
        "Setext\n\n"
        "The end \\( a_1 \\times b_2 \\) and a link\n"
        "(https://example.com/x)."
    )


@pytest.mark.parametrize(
    "text",
    [
        "<b>bold</b> <script>alert(1)</script> <br>",
        "<div>\nblock\n</div>",
        "[red]not markup[/red] :smile:",
        r"\[ \frac{a}{b} \] \(x_1\) \{ \} a \\ b \, c \| d",
        r"$x^*$ and $y^*$, \(a*b*c\) and \[p_{i}^{*}q^{*}\]",
        "$$z^{*}\n= *w* _v_$$",
        "[1]: https://example.com",
        "one\ntwo\nthree",
        "2 * 3 * 4 = 24",
        "snake_case_name",
    ],
)
def test_nothing_that_was_written_vanishes(text: str) -> None:
    assert shown(text) == text


def test_images_and_links_are_spelled_out() -> None:
    assert shown("![cat](http://x/c.png), [dog](http://y)") == "[cat](http://x/c.png), dog (http://y)"
    assert shown("<https://example.com/a*b*c>") == "https://example.com/a*b*c"


def test_money_is_no_formula() -> None:
    assert shown("from $5 *now* to $6, or 7 $ *then* or 8 $") == "from $5 now to $6, or 7 $ then or 8 $"


def test_no_hyperlink_reaches_the_terminal() -> None:
    assert "\x1b]8" not in "".join(draw(["[a](http://x) ![b](http://y) <http://z>"]).written)


def test_colours_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CODES.search("".join(draw(["**bold** `code`"]).written))
    monkeypatch.setenv("NO_COLOR", "1")
    codes = CODES.findall("".join(draw(["# T\n\n**bold** `code`\n\n```python\nx = 'y'\n```\n\n- a"]).written))
    assert not any(re.search(r"\b(3\d|4\d|9\d|10\d)\b", code) for code in codes)


# --- streaming


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 10_000])
@pytest.mark.parametrize(("width", "height"), [(80, 40), (40, 12), (20, 5), (8, 3)])
def test_any_pieces_end_the_same(size: int, width: int, height: int) -> None:
    pieces = [ANSWER[start : start + size] for start in range(0, len(ANSWER), size)]
    assert draw(pieces, width, height).text() == lines_of(ANSWER, width)


PARTS = [
    *["a", "字", " ", "\n", "\n\n", "# ", "- ", "1. ", "```\n", "> ", "|", "---\n", "*", "_", "`", "    ", "~~"],
    *["<", "[x](y)", "long word " * 9, "汉字，" * 9],
]
BREAKERS = [
    *["> " * 500 + "x", "- " * 200 + "x", "[" * 3000, "*" * 3000, "`" * 999, "1. " * 100, "99999999999. x"],
    "|" * 500 + "\n" + "|-" * 500,
]


def test_random_documents_end_the_same_in_any_pieces() -> None:
    chance = random.Random(20230314)
    for _ in range(150):
        text = "".join(chance.choices(PARTS, k=chance.randrange(1, 30)))
        width, height = chance.randrange(10, 70), chance.randrange(3, 20)
        assert draw(cut(text, chance), width, height).text() == draw([text], width, height).text(), text


def test_finished_text_is_written_once() -> None:
    """The screen is never cleared and what is finished never drawn again: all output stays near linear."""
    text = "\n\n".join(f"Paragraph number {number} of the answer." for number in range(200))
    screen = draw(list(text))
    assert sum(map(len, screen.written)) < 60 * len(text)
    assert sum(piece.count("number 7 ") for piece in screen.written) < 40


def test_the_placeholder_is_gone_afterwards() -> None:
    assert draw(["hello"]).text() == "hello"
    assert draw([]).text() == ""
    assert draw(["", "\n"]).text() == ""


def test_a_block_taller_than_the_window_shows_its_end_meanwhile() -> None:
    screen = Screen(30, 6)
    view = MarkdownView(screen.console(), pause=no_pause)
    code = "```\n" + "\n".join(f"line {number}" for number in range(50))
    for character in code:
        view.feed(character)
    assert screen.text().endswith("line 47\nline 48\nline 49")
    assert len(screen.rows) <= 6
    view.close()
    assert screen.text() == "\n".join(f"line {number}" for number in range(50))


def test_what_follows_starts_on_its_own_line() -> None:
    for pieces in (["hello"], ["a\n\nb\n\n"], []):
        screen = draw(pieces)
        screen.write("next")
        assert screen.text().split("\n")[-1] == "next"


@pytest.mark.parametrize(("width", "height"), [(23, 20), (90, 20), (40, 8), (15, 30)])
def test_the_window_may_change_in_the_middle(width: int, height: int) -> None:
    for middle in range(5, len(ANSWER), 43):
        screen = Screen(60, 25)
        console = screen.console()
        view = MarkdownView(console, pause=no_pause)
        for start in range(0, middle, 3):
            view.feed(ANSWER[start : min(start + 3, middle)])
        screen.resize(width, height)
        console.size = ConsoleDimensions(width, height)
        for start in range(middle, len(ANSWER), 3):
            view.feed(ANSWER[start : start + 3])
        view.close()
        words = re.findall(r"\w+", screen.text())
        expected = re.findall(r"\w+", lines_of(ANSWER, 500))
        assert "".join(words) == "".join(expected), f"resized after {middle}"


ENTITIES = ["".join(f"&#{ord(character)};" for character in text) for text in HOSTILE]


@pytest.mark.parametrize("text", [*HOSTILE, *ENTITIES, "&rlm;"])
@pytest.mark.parametrize("frame", ["{}", "```\n{}\n```", "# {}", "- {}", "[{}](http://{})", "`{}`", "|{}|\n|-|\n|{}|"])
def test_hostile_text_sends_no_code(text: str, frame: str) -> None:
    """The screen refuses whatever is not a colour or one of the program's own two codes."""
    on_screen = draw(list(frame.replace("{}", text))).text()
    assert on_screen == harmless(on_screen)


@pytest.mark.parametrize("text", BREAKERS)
def test_markdown_that_breaks_renderers_is_shown_somehow(text: str) -> None:
    assert draw([text], 30).text() or not text.strip("`")  # an empty block of code is nothing to see


# --- lines


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 7, ["one two", "three"]),
        ("按 Ctrl-C 停止回答吧", 12, ["按 Ctrl-C 停", "止回答吧"]),
        ("你好，世界", 4, ["你", "好，", "世界"]),
        ("（括号）在内", 6, ["（括", "号）在", "内"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("你好", 1, ["你", "好"]),
        ("a " * 5, 3, ["a a", "a a", "a"]),
        ("", 5, [""]),
    ],
)
def test_where_lines_break(text: str, width: int, lines: list[str]) -> None:
    places = [0, *breaks(text, width), len(text)]
    assert [text[a:b].rstrip() for a, b in pairwise(places)] == lines


def test_lines_fit_and_lose_nothing() -> None:
    chance = random.Random(7)
    alphabet = "ab c你，。（《》）“”  、x.1-👍\u0301"
    for _ in range(2000):
        text = "".join(chance.choices(alphabet, k=chance.randrange(40)))
        width = chance.randrange(6, 20)
        places = [0, *breaks(text, width), len(text)]
        assert places == sorted(set(places)) or not text
        for a, b in pairwise(places):
            assert sum(map(cells, text[a:b].rstrip())) <= width


# --- in a pipe


def test_a_pipe_gets_the_text_as_it_is_and_a_last_line_end() -> None:
    for pieces, expected in ((["# a\n", "*b*"], "# a\n*b*\n"), (["x\n"], "x\n"), ([], ""), (["", ""], "")):
        file = io.StringIO()
        view = PlainView(file)
        for piece in pieces:
            view.feed(piece)
        view.close()
        assert file.getvalue() == expected


def test_a_pipe_gets_no_codes_either() -> None:
    for text in HOSTILE:
        file = io.StringIO()
        view = PlainView(file)
        view.feed(text)
        assert "\x1b" not in file.getvalue()
        assert "\x9b" not in file.getvalue()


def test_a_pipe_gets_each_piece_at_once() -> None:
    class File(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            File.flushed += 1

    view = PlainView(File())
    view.feed("a")
    view.feed("b")
    assert File.flushed == 2


def test_the_fake_screen_refuses_what_is_not_allowed() -> None:
    for code in ("\x1b[2J", "\x1b]0;x\x07", "\x07", "\x9b", "\x1bc", "\x1b[5A", "\b"):
        with pytest.raises(AssertionError, match="was sent"):
            Screen().write(code)
    assert isinstance(Screen().console(), Console)
