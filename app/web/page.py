"""Lay out the page and connect its events; server.py serves it.

One tab is Gradio's Chatbot with the event handlers of chat.py, the other is laid out in fill_page.py. Gradio's own
queue has no limit, since the engine has a queue of its own and reports the positions in it.
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

# Scripts of events; the functions are in assets/chat.js. WITH_HISTORY puts the shown conversation into an event's first
# input. gr.Chatbot itself is never an input, since Gradio would load files and addresses that its messages name.
WITH_HISTORY = "(...inputs) => glm.withHistory(...inputs)"
TO_THE_BOX = "() => glm.focusBox()"
SAVED_CHATS = "glm.attach(element, trigger); // triggers 'open' and 'removed'"

# Gradio counts its events and rebuilds a table of all counts after every N of them. The page with these statistics is
# closed here (security.py), so a very large N keeps Gradio from computing them.
NO_FIGURES = ("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")

Listener = Callable[[], dict[str, Any]]
"""Returns the arguments that events have in common."""


def build(engine: Engine, options: Options, visitors: Visitors | None = None) -> gr.Blocks:
    """Return the page, which is launched with `launch_arguments`."""
    os.environ.setdefault(*NO_FIGURES)
    visitors = visitors or Visitors()
    chat, fill = Chat(engine, options, visitors), Fill(engine, options, visitors)
    with gr.Blocks(title="GLM", analytics_enabled=False, fill_height=True, fill_width=True) as page:
        _Page(chat, fill, engine, options).wire(page)
    return page.queue(max_size=None, default_concurrency_limit=None, api_open=False)


class _Page:
    """The components of the page, from top to bottom, and their events."""

    def __init__(self, chat: Chat, fill: Fill, engine: Engine, options: Options) -> None:
        self._chat = chat
        i18n = gr.I18n()
        with gr.Sidebar(width=280, open=False) as self.side:
            self.new = gr.Button(i18n("page_new_chat"), size="md", elem_id="new-chat")
            gr.Markdown(i18n("page_saved"), elem_classes="glm-heading")
            self.saved = gr.HTML(js_on_load=SAVED_CHATS, elem_id="saved-chats")
            with gr.Accordion(i18n("page_settings"), open=False):
                self.settings = _settings(engine, options)
            with gr.Accordion(i18n("page_files"), open=False):
                self.export_json = gr.Button(i18n("page_export_json"), size="sm")
                self.export_markdown = gr.Button(i18n("page_export_markdown"), size="sm")
                self.load_file = gr.Button(i18n("page_import"), size="sm", elem_id="import")
            self.theme = gr.Button(i18n("page_theme"), size="sm", elem_id="theme")
        with gr.Column(elem_id="main"):
            with gr.Column(elem_id="model"):
                gr.Markdown(f"**GLM** {wording.describe(engine.model_info)}")
                if engine.model_info.is_demo:
                    gr.Markdown(i18n("page_demo"))
            with gr.Tabs(elem_id="tabs") as self.tabs:
                with gr.Tab(i18n("page_tab_chat"), id="chat", elem_id="chat-tab"), gr.Column(elem_id="chat"):
                    self._conversation(i18n)
                with gr.Tab(i18n("page_tab_fill"), id="fill", elem_id="fill-tab"):
                    self.fill = FillPage(fill, engine, options)
        # Carries a conversation between the page's script and the server.
        self.carrier = gr.Textbox(visible=False)

    def _conversation(self, i18n: gr.I18n) -> None:
        self.transcript = _transcript(i18n)
        self.line = gr.HTML("", elem_id="line", elem_classes="glm-line", js_on_load=None)
        self.box = gr.Textbox(
            label=i18n("page_label"), placeholder=i18n("page_message"), show_label=False, container=False,
            lines=1, max_lines=8, submit_btn=True, stop_btn=False, autofocus=True, elem_id="message",
        )  # fmt: skip
        gr.Markdown(i18n("page_mistakes"), elem_id="mistakes")

    def wire(self, page: gr.Blocks) -> None:
        """Connect the events. Scripts that show another conversation first wait for the end of an answer."""
        chat, view = self._chat, [self.transcript, self.box, self.line]
        now: Listener = partial(dict, queue=False, show_progress="hidden", api_visibility="private")
        self._wire_answers(view)
        self.box.stop(chat.stop, js=TO_THE_BOX, **now())
        new = self.new.click(chat.reset, None, view, js="() => glm.startNew()", **now())
        self.transcript.clear(chat.reset, None, view, js="() => glm.forgetShown()", **now())
        self.saved.removed(chat.reset, None, view, **now())
        opened = self.saved.open(chat.open, self.carrier, view, js="() => [glm.shown()]", **now())
        page.load(chat.open, self.carrier, view, js="() => [glm.shown()]", **now())
        for listen in (page.load, new.then, opened.then):  # closed on a phone, where it would cover the conversation
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
        """Connect the events that the model answers. Gradio limits none of them, since the engine has a queue."""
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
        # Shows the chat, where the notice for an unreadable file is visible.
        pick.then(None, None, self.side, js="() => glm.sideBar()", **now())
        pick.then(None, None, self.tabs, js="() => glm.showChat()", **now())


def _transcript(i18n: gr.I18n) -> gr.Chatbot:
    return gr.Chatbot(
        placeholder=str(i18n("page_greeting")),
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
    """Return the controls for maximum length, top-p, temperature and seed, in the order of chat.Settings."""
    i18n = gr.I18n()
    longest = engine.model_info.context_length
    return [
        gr.Slider(
            32, longest, min(options.max_length, longest), step=1,
            label=i18n("page_max_length"), info=i18n("page_max_length_info"),
        ),
        gr.Slider(
            min(0.01, options.top_p), 1, options.top_p, step=0.01,
            label=i18n("page_top_p"), info=i18n("page_top_p_info"),
        ),
        gr.Slider(
            0, max(2, options.temperature), options.temperature, step=0.01,
            label=i18n("page_temperature"), info=i18n("page_temperature_info"),
        ),
        # Not gr.Number, which shows an empty field as 0, a valid seed.
        gr.Textbox(
            "" if options.seed is None else str(options.seed), max_lines=1, placeholder=i18n("page_seed_random"),
            label=i18n("page_seed"), info=i18n("page_seed_info"),
        ),
    ]  # fmt: skip
