"""Render Markdown for the terminal: split an answer into blocks, and turn a block into lines with colour codes.

Rich does the rendering. Differences from its defaults:

- single line breaks stay, since models write verse and lists that way;
- HTML and LaTeX are shown as they were written instead of disappearing;
- links and images are written out and never become terminal hyperlinks;
- colours come from the terminal's palette, so that they suit light and dark terminals alike.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, escape
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, ListItem, Markdown, MarkdownElement, Paragraph
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text
from rich.theme import Theme

from glm_model.text.sanitize import harmless

from .wrap import Wrapped

THEME = Theme(
    {
        "markdown.code": "cyan",
        "markdown.code_block": "cyan",
        "markdown.h1": "bold underline",
        "markdown.h2": "bold underline",
        "markdown.h3": "bold",
        "markdown.h4": "bold italic",
    }
)
_LATEX = "()[]{}\\,;!|"
# A formula as on the web page. A dollar next to a space or before a digit is an amount of money.
_FORMULA = re.compile(r"\$\$.+?\$\$|\$(?!\s)[^$\n]*?(?<!\s)\$(?!\d)|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)


def _formula(state: StateInline, silent: bool) -> bool:
    """Parse a formula as plain text (a markdown-it rule): `*` and `_` in it belong to LaTeX, not to Markdown."""
    if state.src[state.pos] not in "$\\" or not (found := _FORMULA.match(state.src, state.pos, state.posMax)):
        return False
    if not silent:
        state.push("text", "", 0).content = found.group()
    state.pos = found.end()
    return True


def _escape_but_latex(state: StateInline, silent: bool) -> bool:
    r"""Parse a backslash escape (a markdown-it rule), but leave the sequences that LaTeX uses: \( \[ \\ \{ ..."""
    if state.src[state.pos + 1 : state.pos + 2] in list(_LATEX):
        return False
    return escape(state, silent)


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    parser.disable("reference")  # "[1]: https://..." is shown as text, not hidden as a link definition
    parser.inline.ruler.at("escape", _escape_but_latex)
    parser.inline.ruler.before("escape", "formula", _formula)
    return parser


_PARSER = _make_parser()


def split(text: str) -> tuple[list[str], str]:
    """Split a growing answer into its finished blocks and the last one, which may still change.

    A block (paragraph, list, table, code ...) is finished once another one has begun after it.
    """
    tokens = _PARSER.parse(text)
    starts = [token.map[0] for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
    lines = text.split("\n")
    cuts = [0, *starts[1:], len(lines)]
    blocks = ["\n".join(lines[start:end]) for start, end in pairwise(cuts)]
    return [block.rstrip("\n") for block in blocks[:-1]], blocks[-1]


def render(block: str, console: Console) -> list[str]:
    """Return the lines of a block, wrapped to the console's width, with colour codes but no other control codes."""
    try:
        lines = _lines(console, _Markdown(block))
    except Exception:  # if the renderer fails on the model's Markdown, the plain text is shown
        lines = []
    is_empty = not block.strip() or block.lstrip().startswith(("```", "~~~"))
    return lines if lines or is_empty else _lines(console, Wrapped(Text(block)))


def _lines(console: Console, renderable: Markdown | Wrapped) -> list[str]:
    with console.capture() as capture:
        console.print(renderable)
    lines = [_PADDING.sub(_without_spaces, line) for line in capture.get().split("\n")]
    seen = [index for index, line in enumerate(lines) if line]
    return lines[seen[0] : seen[-1] + 1] if seen else []


# Rich pads lines with spaces. They would wrap in a narrower window, and would be copied with the text.
_PADDING = re.compile(r"(?: |\x1b\[[\d;]*m)+$")


def _without_spaces(padding: re.Match[str]) -> str:
    follows_text = padding.start() > 0
    return "\x1b[0m" if follows_text and "\x1b" in padding.group() else ""


class _LeftHeading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _WrappedParagraph(Paragraph):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Wrapped(self.text)


class _NumberedItem(ListItem):
    """A list item with its number written as "1."; rich omits the dot."""

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        width = len(f" {last_number - 1}. ")
        style = console.get_style("markdown.item.number")
        inner = options.update(width=max(1, options.max_width - width))
        for index, line in enumerate(console.render_lines(self.elements, inner, style=self.style)):
            yield Segment((f"{number}. " if index == 0 else "").rjust(width), style)
            yield from line
            yield Segment.line()


class _CopiableCode(CodeBlock):
    """A code block without indentation, so that it can be copied from the terminal and run."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(str(self.text).rstrip(), self.lexer_name, theme=self.theme, word_wrap=True)


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "paragraph_open": _WrappedParagraph,
        "heading_open": _LeftHeading,
        "list_item_open": _NumberedItem,
        "fence": _CopiableCode,
        "code_block": _CopiableCode,
    }

    def __init__(self, markup: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup = markup
        self.parsed = [_adapted(token) for token in _PARSER.parse(markup)]


def _adapted(token: Token) -> Token:
    """Change a token and its children in place: line breaks stay, images become text, control characters harmless."""
    if token.type == "softbreak":
        token.type = "hardbreak"
    elif token.type == "image":
        token.content = f"[{token.content}]({token.attrGet('src')})"
        token.type, token.tag, token.children = "text", "", None
    elif token.markup == "autolink":  # the ends of <https://...>; the address between them is a token of its own
        token.type, token.tag, token.nesting = "text", "", 0
    token.content = harmless(token.content)  # again, since the parser has now decoded entities such as "&#8238;"
    for child in token.children or []:
        _adapted(child)
    return token
