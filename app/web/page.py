"""The page: what is on it, and what its parts do. app/web/server.py serves it.

One tab is Gradio's Chatbot with the events of app/web/chat.py, the other is app/web/fill_page.py. Gradio's own queue
lets everybody in at once; the waiting is done, and told, by the engine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from ..options import Options
from ..serving.engine import Engine
from . import wording
from .chat import Chat, Visitors
from .fill import Fill
from .fill_page import FillPage
from .security import DELIMITERS, MARK

LATEX: list[dict[str, str | bool]] = [
    {"left": begin + MARK, "right": MARK + end, "display": begin in ("$$", r"\[")} for begin, end in DELIMITERS
]

# Scripts of events, written in app/web/assets/chat.js. The first puts the conversation shown into an event's first
# input. gr.Chatbot is never an input itself: what Gradio would read from one may name files and addresses.
WITH_HISTORY = "(...inputs) => glm.withHistory(...inputs)"
TO_THE_BOX = "() => glm.focusBox()"
SAVED_CHATS = "glm.attach(element, trigger); // triggers 'open' and 'removed'"

# Gradio counts its events, and lays out all counts anew in a table after each of them. The page with these figures is
# closed here (app/web/security.py); so large an interval keeps them from being made.
NO_FIGURES = ("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")

Listener = Callable[[], dict[str, Any]]
"""Arguments that events have in common."""


def build(engine: Engine, options: Options, visitors: Visitors | None = None) -> gr.Blocks:
    """The page, to be launched with `launch_arguments`."""
    os.environ.setdefault(*NO_FIGURES)
    visitors = visitors or Visitors()
    chat, fill = Chat(engine, options, visitors), Fill(engine, options, visitors)
    with gr.Blocks(title="GLM", analytics_enabled=False, fill_height=True, fill_width=True) as page:
        _Page(chat, fill, engine, options).wire(page)
    return page.queue(max_size=None, default_concurrency_limit=None, api_open=False)


class _Page:
    """The parts of the page, top to bottom, and what they do."""

    def __init__(self, chat: Chat, fill: Fill, engine: Engine, options: Options) -> None:
        self._chat = chat
        say = gr.I18n()
        with gr.Sidebar(width=280, open=False) as self.side:
            self.new = gr.Button(say("page_new_chat"), size="md", elem_id="new-chat")
            gr.Markdown(say("page_saved"), elem_classes="glm-heading")
            self.saved = gr.HTML(js_on_load=SAVED_CHATS, elem_id="saved-chats")
            with gr.Accordion(say("page_settings"), open=False):
                self.settings = _settings(engine, options)
            with gr.Accordion(say("page_files"), open=False):
                self.export_json = gr.Button(say("page_export_json"), size="sm")
                self.export_markdown = gr.Button(say("page_export_markdown"), size="sm")
                self.load_file = gr.Button(say("page_import"), size="sm", elem_id="import")
            self.theme = gr.Button(say("page_theme"), size="sm", elem_id="theme")
        with gr.Column(elem_id="main"):
            with gr.Column(elem_id="model"):
                gr.Markdown(f"**GLM** {wording.describe(engine.model_info)}")
                if engine.model_info.is_demo:
                    gr.Markdown(say("page_demo"))
            with gr.Tabs(elem_id="tabs") as self.tabs:
                with gr.Tab(say("page_tab_chat"), id="chat", elem_id="chat-tab"), gr.Column(elem_id="chat"):
                    self._conversation(say)
                with gr.Tab(say("page_tab_fill"), id="fill", elem_id="fill-tab"):
                    self.fill = FillPage(fill, engine, options)
        # Carries a conversation between the page's script and the server.
        self.carrier = gr.Textbox(visible=False)

    def _conversation(self, say: gr.I18n) -> None:
        self.transcript = _transcript(say)
        self.line = gr.HTML("", elem_id="line", elem_classes="glm-line", js_on_load=None)
        self.box = gr.Textbox(
            label=say("page_label"), placeholder=say("page_message"), show_label=False, container=False,
            lines=1, max_lines=8, submit_btn=True, stop_btn=False, autofocus=True, elem_id="message",
        )  # fmt: skip
        gr.Markdown(say("page_mistakes"), elem_id="mistakes")

    def wire(self, page: gr.Blocks) -> None:
        """Connect the events. What shows another conversation has its script wait for the end of an answer."""
        chat, view = self._chat, [self.transcript, self.box, self.line]
        now: Listener = partial(dict, queue=False, show_progress="hidden", api_visibility="private")
        self._wire_answers(view)
        self.box.stop(chat.stop, js=TO_THE_BOX, **now())
        new = self.new.click(chat.reset, None, view, js="() => glm.startNew()", **now())
        self.transcript.clear(chat.reset, None, view, js="() => glm.forgetShown()", **now())
        self.saved.removed(chat.reset, None, view, **now())
        opened = self.saved.open(chat.open, self.carrier, view, js="() => [glm.shown()]", **now())
        page.load(chat.open, self.carrier, view, js="() => [glm.shown()]", **now())
        for listen in (page.load, new.then, opened.then):  # on a phone it would cover what was asked for
            listen(None, None, self.side, js="() => glm.sideBar()", **now())
        for shown in (new, opened):
            shown.then(None, None, self.tabs, js="() => glm.showChat()", **now())
        page.load(None, None, None, js="() => glm.showTheme()", **now())
        self.theme.click(None, None, None, js="() => glm.toggleTheme()", **now())
        page.load(chat.greet, None, self.transcript, **now())
        undone = self.transcript.undo(chat.undo, self.carrier, view, js=WITH_HISTORY, **now())
        undone.then(None, None, None, js=TO_THE_BOX, **now())
        self.transcript.change(None, self.transcript, None, js="(transcript) => glm.save(transcript)", **now())
        self._wire_files(now)
        self.fill.wire(page, now())

    def _wire_answers(self, view: list[Any]) -> None:
        """The events that the model answers. All go past Gradio's queue at once: the engine has its own."""
        chat = self._chat
        started: list[tuple[Any, Any, list[Any]]] = [
            (self.box.submit, chat.send, [self.carrier, self.box, *self.settings]),
            (self.transcript.retry, chat.retry, [self.carrier, *self.settings]),
            (self.transcript.edit, chat.edit, [self.carrier, *self.settings]),
            (self.transcript.example_select, chat.example, [self.carrier, *self.settings]),
        ]
        for listen, handler, inputs in started:
            answer = listen(
                handler, inputs, view, js="(...inputs) => glm.ask(...inputs)", concurrency_limit=None,
                show_progress="hidden", api_visibility="private",
            )  # fmt: skip
            answer.then(None, None, None, js="() => glm.answered()")

    def _wire_files(self, now: Listener) -> None:
        for click, to_text, ending in (
            (self.export_json.click, self._chat.to_json, "json"),
            (self.export_markdown.click, self._chat.to_markdown, "md"),
        ):
            made = click(to_text, self.carrier, self.carrier, js=WITH_HISTORY, **now())
            made.then(None, self.carrier, None, js=f"(text) => glm.download(text, '{ending}')")
        pick = self.load_file.click(
            self._chat.read_file, self.carrier, [self.carrier, self.line], js="() => glm.pickFile()", **now()
        )
        pick.then(None, self.carrier, None, js="(json) => glm.imported(json)")
        # Where the notice that it could not be read is in sight.
        pick.then(None, None, self.side, js="() => glm.sideBar()", **now())
        pick.then(None, None, self.tabs, js="() => glm.showChat()", **now())


def _transcript(say: gr.I18n) -> gr.Chatbot:
    return gr.Chatbot(
        placeholder=str(say("page_greeting")),
        show_label=False,
        elem_id="transcript",
        layout="bubble",
        editable="user",
        buttons=["copy"],
        latex_delimiters=LATEX,
        sanitize_html=True,
        allow_tags=False,
        feedback_options=None,
        group_consecutive_messages=False,
        height="100%",
        scale=1,
    )


def _settings(engine: Engine, options: Options) -> list[gr.components.Component]:
    """Maximum length, top-p, temperature and seed, in the order of chat.Settings."""
    say = gr.I18n()
    longest = engine.model_info.context_length
    return [
        gr.Slider(
            32, longest, min(options.max_length, longest), step=1,
            label=say("page_max_length"), info=say("page_max_length_info"),
        ),
        gr.Slider(
            min(0.01, options.top_p), 1, options.top_p, step=0.01,
            label=say("page_top_p"), info=say("page_top_p_info"),
        ),
        gr.Slider(
            0, max(2, options.temperature), options.temperature, step=0.01,
            label=say("page_temperature"), info=say("page_temperature_info"),
        ),
        # Not gr.Number, which shows an empty field as 0: a seed as good as any other.
        gr.Textbox(
            "" if options.seed is None else str(options.seed), max_lines=1, placeholder=say("page_seed_random"),
            label=say("page_seed"), info=say("page_seed_info"),
        ),
    ]  # fmt: skip
