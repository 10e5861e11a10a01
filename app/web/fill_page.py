"""Lay out the blank-filling tab and connect its events; fill.py handles them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from glm_model.blank_filling import FillOptions

from ..options import Options
from ..serving.engine import Engine
from . import wording
from .fill import MOST_BEAMS, STRATEGIES, Fill


class FillPage:
    """The components of the tab, from top to bottom; it is created within the gr.Tab."""

    def __init__(self, fill: Fill, engine: Engine, options: Options) -> None:
        self._fill = fill
        i18n = gr.I18n()
        with gr.Column(elem_id="fill"):
            gr.Markdown(i18n("page_fill_intro"), elem_id="fill-intro")
            self.text = gr.Textbox(
                label=i18n("page_fill_text"), placeholder=i18n("page_fill_placeholder"), lines=3, max_lines=12,
                elem_id="fill-text",
            )  # fmt: skip
            with gr.Row(elem_id="fill-buttons"):
                self.insert = gr.Button(i18n("page_fill_insert"), size="md", elem_id="fill-insert", min_width=120)
                self.start = gr.Button(
                    i18n("page_fill_button"), variant="primary", size="md", elem_id="fill-start", min_width=120
                )
                self.stop = gr.Button(
                    i18n("page_fill_stop"), variant="stop", size="md", elem_id="fill-stop", min_width=120, visible=False
                )
            self.line = gr.HTML("", elem_id="fill-line", elem_classes="glm-line", js_on_load=None)
            self.filled = gr.HTML("", visible=False, elem_id="filled", js_on_load=None)
            self.alternatives = gr.HTML("", visible=False, elem_id="alternatives", js_on_load=None)
            gr.Markdown(i18n("page_fill_examples"), elem_classes="glm-heading")
            with gr.Row(elem_id="fill-examples"):
                self.examples = [gr.Button("", size="sm") for _ in wording.fill_examples(engine.model_info, "en")]
            with gr.Accordion(i18n("page_fill_settings"), open=False, elem_id="fill-settings"):
                self.settings = _settings(engine, options)

    def wire(self, page: gr.Blocks, now: dict[str, Any]) -> None:
        """Connect the events. `now`: the arguments of those that do not use Gradio's queue."""
        view = [self.filled, self.alternatives, self.line, self.start, self.stop]
        filling: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
        inputs = [self.text, *self.settings]
        self.start.click(self._fill.fill, inputs, view, **filling)
        self.text.submit(self._fill.fill, inputs, view, **filling)
        self.stop.click(self._fill.stop, **now)
        self.insert.click(None, self.text, self.text, js="(text) => glm.insertBlank(text)", **now)
        page.load(self._fill.examples, None, self.examples, **now)
        for example in self.examples:
            chosen = example.click(None, example, self.text, js="(text) => text", **now)
            chosen.then(self._fill.fill, inputs, view, **filling)


def _settings(engine: Engine, options: Options) -> list[gr.components.Component]:
    """Return the controls in the order of fill.fill_options. Those of other strategies are hidden."""
    i18n = gr.I18n()
    usual = FillOptions(every_kind=True)
    longest = engine.model_info.context_length
    choices = [(i18n(f"page_strategy_{name}"), name) for name in STRATEGIES]
    strategy = gr.Radio(choices, value=STRATEGIES[0], label=i18n("page_strategy"), elem_id="fill-strategy")
    with gr.Column(elem_classes="glm-settings") as beams:
        of_beams = [
            _slider("num_beams", 1, MOST_BEAMS, usual.num_beams, 1),
            _slider("length_penalty", -3, 3, usual.length_penalty, 0.1),
            _slider("min_length", 0, 64, usual.min_gen_length, 1),
            _slider("no_repeat", 0, 10, usual.no_repeat_ngram_size, 1),
        ]
    with gr.Column(elem_classes="glm-settings", visible=False) as sampling:
        of_sampling = [
            _slider("temperature", 0, 2, usual.temperature, 0.01),
            _slider("top_p", 0.01, 1, usual.top_p, 0.01),
            _slider("top_k", 0, 100, usual.top_k, 1),
        ]
    length = gr.Slider(
        8, longest, min(options.max_length, longest), step=1,
        label=i18n("page_max_length"), info=i18n("page_fill_length_info"),
    )  # fmt: skip
    seed = gr.Textbox(
        "" if options.seed is None else str(options.seed), max_lines=1, placeholder=i18n("page_seed_random"),
        label=i18n("page_seed"), info=i18n("page_seed_info"), visible=False, elem_id="fill-seed",
    )  # fmt: skip
    strategy.change(
        _visibility, strategy, [beams, sampling, seed], queue=False, show_progress="hidden", api_visibility="private"
    )
    return [strategy, *of_beams, *of_sampling, length, seed]


def _visibility(strategy: str) -> tuple[Any, Any, Any]:
    """Return the visibility of the beam settings, of the sampling settings and of the seed for a strategy."""
    beams, sampling = strategy == "beams", strategy == "sampling"
    return gr.update(visible=beams), gr.update(visible=sampling), gr.update(visible=sampling)


def _slider(name: str, least: float, most: float, value: float, step: float) -> gr.Slider:
    i18n = gr.I18n()
    return gr.Slider(
        least, most, value, step=step, label=i18n(f"page_{name}"), info=i18n(f"page_{name}_info"), min_width=220
    )
