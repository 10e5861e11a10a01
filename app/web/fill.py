"""Handle the events of the blank-filling tab, and render fillings and alternatives.

No event changes the visitor's text: it stays in its box even after an error.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from glm_model.blank_filling import FilledText, FillOptions, FillResult

from ..options import MOST_SEED, Options
from ..serving.engine import Engine, QueueFull
from ..serving.reply import Event, Failed, Filled, Filling, Finished, Queued, Text
from . import wording
from .chat import LONGEST_QUESTION, PAUSE, SeedError, Visitors, events_until, line, read_number, read_seed
from .wording import Words

ROOM = "fill"  # the tab of an answer, as `Visitors` counts them
MOST_BEAMS = 8  # limits what one visitor can use of the shared model
STRATEGIES = ("beams", "sampling", "greedy")

Update = tuple[Any, Any, Any, Any, Any]
"""New values of the filled text, the alternatives, the status line, the fill button and the stop button."""

HIDDEN = gr.update(value=None, visible=False)


class Fill:
    """The event handlers of the blank-filling tab. Gradio calls the public methods with the values of the page."""

    def __init__(self, engine: Engine, options: Options, visitors: Visitors) -> None:
        self._engine = engine
        self._options = options
        self._visitors = visitors

    async def fill(self, request: gr.Request, text: str, *settings: Any) -> AsyncIterator[Update]:
        """Fill the blanks of the text in the box. `settings` are in the order of the arguments of `fill_options`."""
        words, text = self._words(request), str(text or "")
        try:
            if len(text) > LONGEST_QUESTION:
                yield refusal(words.fill_too_long)
                return
            reply = self._engine.fill(text, fill_options(*settings), owner=request.session_hash)
        except QueueFull:
            yield refusal(words.queue_full.format(count=self._options.queue_size))
            return
        except SeedError:
            yield refusal(words.seed.format(most=MOST_SEED))
            return
        except ValueError as error:
            yield refusal(words.refused.format(reason=error))
            return
        with reply, self._visitors.answering(str(request.session_hash), reply, ROOM) as stop:
            yield gr.skip(), gr.skip(), line(words.thinking, "busy"), *buttons(filling=True)
            async for update in _updates(text, events_until(stop, reply), words):
                yield update

    async def stop(self, request: gr.Request) -> None:
        """Stop the filling; the text so far stays."""
        self._visitors.stop(str(request.session_hash), ROOM)

    def examples(self, request: gr.Request) -> list[str]:
        """Return the example texts in the browser's language, one for each example button."""
        return list(wording.fill_examples(self._engine.model_info, self._language(request)))

    def _language(self, request: gr.Request) -> wording.Language:
        return wording.pick_language(self._options.language, request.headers.get("accept-language"))

    def _words(self, request: gr.Request) -> Words:
        return wording.WORDS[self._language(request)]


async def _updates(text: str, events: AsyncIterator[Event], words: Words) -> AsyncIterator[Update]:
    """Yield the updates of the page for the events of a reply.

    Each update is complete, since Gradio's page may drop the first of two that arrive together.
    """
    view: tuple[Any, Any] = (gr.skip(), gr.skip())
    doing = words.thinking
    async for event in events:
        match event:
            case Queued(position):
                doing = wording.queue_line(words, position)
            case Text():  # the request no longer waits
                doing = words.thinking
            case Filling(step):
                view = highlighted(step.show(), words), HIDDEN
                doing = words.filling.format(blank=step.blank + 1, count=step.count)
            case Filled(result):
                view = highlighted(result.texts[0], words), show_alternatives(result, words)
                continue
            case Failed():
                why = line(wording.fill_failure_line(words, event), "failed")
                yield HIDDEN, HIDDEN, why, *buttons(filling=False)
                return
            case Finished():
                yield *view, ending(text, event, words), *buttons(filling=False)
                return
        yield *view, line(doing, "busy"), *buttons(filling=True)
        await asyncio.sleep(PAUSE)  # the reply keeps only the newest state that arrives meanwhile


# --- values of the page ------------------------------------------------------------------------------------


def refusal(why: str) -> Update:
    """Return the update that leaves the page as it is and shows why nothing was filled."""
    return gr.skip(), gr.skip(), line(why, "failed"), *buttons(filling=False)


def buttons(*, filling: bool) -> tuple[Any, Any]:
    """Return the updates of the fill and the stop button, of which one is visible."""
    return gr.update(visible=not filling), gr.update(visible=filling)


def ending(text: str, finished: Finished, words: Words) -> str:
    """Return the last status line: why the filling stopped early, and whether a text without blanks was continued."""
    notice = "" if wording.has_blank(text) else words.fill_no_blank
    last = {"cancelled": words.stopped, "length": words.fill_length}.get(finished.reason, "")
    return line(last, "done", notice)


def highlighted(filled: FilledText, words: Words) -> Any:
    """Return a filled text as HTML, with each filling marked, and numbered if there are several.

    gr.HighlightedText is not used, since text copied from it has spaces and line breaks around every filling.
    """
    blanks = iter(filled.filled_by)
    several = len(set(filled.filled_by)) > 1
    parts = []
    for segment in filled.segments:
        number = next(blanks) + 1 if segment.is_filling else 0
        parts.append(_marked(segment.text, number if several else 0, words) if number else _text(segment.text))
    return gr.update(value=f'<div class="filled">{"".join(parts)}</div>', visible=True)


def _marked(text: str, number: int, words: Words) -> str:
    """Return a filling as HTML.

    Its number, if not 0, and the text for an empty filling come from the style sheet, so that they are not copied.
    """
    numbered = f' data-blank="{number}"' if number else ""
    empty = "" if text.strip() else f' data-empty="{html.escape(words.fill_nothing)}"'
    return f"<mark{numbered}{empty}>{_text(text)}</mark>"


def show_alternatives(result: FillResult, words: Words) -> Any:
    """Return all answers to each blank as HTML, best first; hide them if every blank has only one."""
    if not any(len(blank.answers) > 1 for blank in result.blanks):
        return HIDDEN
    several = len(result.blanks) > 1
    rows = [f'<h3 class="glm-heading">{_text(words.alternatives)}</h3>']
    for number, blank in enumerate(result.blanks, start=1):
        answers = "".join(_alternative(answer.text, answer.score, words) for answer in blank.answers)
        heading = f"<h4>{_text(words.blank.format(number=number))}</h4>" if several else ""
        rows.append(f"<section>{heading}<ol>{answers}</ol></section>")
    return gr.update(value="".join(rows), visible=True)


def _alternative(text: str, score: float | None, words: Words) -> str:
    shown = text.strip() or words.fill_nothing
    number = "" if score is None else f'<span class="score">{score:.2f}</span>'
    return f'<li><span class="answer">{_text(shown)}</span>{number}</li>'


def _text(text: str) -> str:
    """Return text escaped for HTML, with braces and dollars too, in case Gradio takes it for a template."""
    return html.escape(text).replace("{", "&#123;").replace("$", "&#36;")


# --- values from the page ----------------------------------------------------------------------------------


def fill_options(
    strategy: Any, num_beams: Any, length_penalty: Any, min_gen_length: Any, no_repeat_ngram_size: Any,
    temperature: Any, top_p: Any, top_k: Any, max_length: Any, seed: Any,
) -> FillOptions:  # fmt: skip
    """Return the unchecked settings of the tab as FillOptions. Raise ValueError if one is out of range."""
    if strategy not in STRATEGIES:
        raise ValueError(f"the strategy must be one of {', '.join(STRATEGIES)}")
    beams = read_number(num_beams, int)
    if beams > MOST_BEAMS:
        raise ValueError(f"at most {MOST_BEAMS} beams can be followed here")
    return FillOptions(
        strategy="beam_search" if strategy == "beams" else "sampling",
        num_beams=beams,
        length_penalty=read_number(length_penalty, float),
        min_gen_length=read_number(min_gen_length, int),
        no_repeat_ngram_size=read_number(no_repeat_ngram_size, int),
        temperature=0.0 if strategy == "greedy" else read_number(temperature, float),
        top_p=read_number(top_p, float),
        top_k=read_number(top_k, int),
        max_length=read_number(max_length, int),
        seed=read_seed("" if seed is None else str(seed).strip()),
        every_kind=True,
    )
