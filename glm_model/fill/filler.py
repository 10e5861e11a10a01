"""Loads a model and fills one text after the other, as text to print."""

import os
import sys
import time
from dataclasses import replace

from transformers.utils import logging as transformers_logging

from ..blank_filling import FillResult, FillStep, stream_blanks
from ..command_line import complain as complain_as
from ..loading import lead_or_follow, load
from .arguments import Arguments
from .interrupt import noted_interrupts
from .output import all_beams, as_json, choose_marks, marked, one_line

NAME = "fill"
_SECONDS_BETWEEN_NOTES = 0.1


class Filler:
    """A loaded model that fills texts.

    Args:
        arguments: name the model, the options of filling and the format of the output.
        by_line: write each filled text as one line, with a symbol for each line break.

    Raises:
        ValueError: the model cannot be loaded; the message is a sentence for the user.
        SystemExit: this is not rank 0, and rank 0 has filled all texts.
    """

    def __init__(self, arguments: Arguments, *, by_line: bool = False) -> None:
        self._shows_progress = sys.stderr.isatty()
        self._next_note = 0.0
        if not self._shows_progress:
            transformers_logging.disable_progress_bar()
        self._model, self._tokenizer = load(arguments.model, options=arguments.loading)
        if not lead_or_follow(self._model, self._tokenizer):
            raise SystemExit  # rank 0 has filled all texts
        longest = min(arguments.options.max_length, self._model.config.max_sequence_length)
        self._options = replace(arguments.options, max_length=longest)
        self._arguments = arguments
        self._by_line = by_line
        self._marks = choose_marks(arguments.color, sys.stdout.isatty(), os.environ)

    def fill(self, text: str) -> str:
        """Return what to print for a text.

        Raises:
            ValueError: the text cannot be filled.
            KeyboardInterrupt: Ctrl-C stopped the filling.
        """
        result = self._result(text)
        if any(blank.answers[0].finish_reason == "length" for blank in result.blanks):
            complain(f"the text reached {self._options.max_length} tokens and was cut; see --max-length")
        if self._arguments.json:
            return as_json(text, result)
        if self._arguments.all_beams:
            return all_beams(result, self._marks)
        filled = marked(result.texts[0], self._marks)
        return one_line(filled) if self._by_line else filled

    def _result(self, text: str) -> FillResult:
        with noted_interrupts() as is_interrupted:
            for step in stream_blanks(self._model, self._tokenizer, text, self._options, should_stop=is_interrupted):
                self._note(step)
            if is_interrupted():
                raise KeyboardInterrupt
        assert step.result is not None
        return step.result

    def _note(self, step: FillStep) -> None:
        """Show on a terminal which blank is being filled; the last step clears that line."""
        if not self._shows_progress or (step.result is None and time.monotonic() < self._next_note):
            return
        self._next_note = time.monotonic() + _SECONDS_BETWEEN_NOTES
        doing = f"filling blank {step.blank + 1} of {step.count} ..." if step.result is None else ""
        print(f"\r\x1b[K{doing}", end="", file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Print a message on standard error, after the name of the program."""
    complain_as(NAME, text)
