"""Text as it is written: the stream that the front-ends use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..options import SamplingOptions
from ..parallel.following import on_every_rank
from ..text.chat_format import ResponseStream
from ..text.incremental_decoder import IncrementalDecoder
from .chat import _guarded
from .steps import generate_steps


@dataclass(frozen=True)
class TextChunk:
    """A piece of an answer.

    Args:
        text: new text, never half a character; may be empty.
        token_count: tokens of the answer so far, the end token not counted.
        finish_reason: on the last chunk, "stop" (the model ended), "length" or "cancelled"; else None.
    """

    text: str
    token_count: int
    finish_reason: Literal["stop", "length", "cancelled"] | None = None


@on_every_rank
def stream_text(
    model: Any,
    tokenizer: Any,
    prompt_ids: list[int],
    options: SamplingOptions,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[TextChunk]:
    """An answer as it is written, the last token too: the text of ``chat``, but for the decode clean-up of spaces.

    Args:
        model: a GLM for causal language modelling.
        tokenizer: its tokenizer.
        prompt_ids: the ids of the whole prompt, up to and with ``<sop>``.
        should_stop: asked after every token.

    Raises:
        ValueError: the prompt leaves no room for an answer within ``options.max_length``.
    """
    if len(prompt_ids) >= options.max_length:
        raise ValueError(
            f"the prompt has {len(prompt_ids)} tokens and max_length is {options.max_length}: no room for an answer. "
            "Shorten the prompt or raise max_length."
        )
    decoder, response = IncrementalDecoder(tokenizer), ResponseStream()
    end_tokens = _end_tokens(model)
    input_ids = torch.tensor([prompt_ids], device=model.device)
    steps = generate_steps(
        model,
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        logits_processor=_guarded(None),
        generator=None if options.seed is None else torch.Generator(model.device).manual_seed(options.seed),
        prompt_lookup_num_tokens=options.prompt_lookup,
        **options.generation_kwargs(),
    )
    for count, (all_ids, finished) in enumerate(steps, start=1):
        token = int(all_ids[0, -1])
        if token in end_tokens:
            yield TextChunk(response.push(decoder.finish()) + response.finish(), count - 1, "stop")
            return
        text = response.push(decoder.push([token]))
        if finished or should_stop():
            rest = response.push(decoder.finish()) + response.finish()
            yield TextChunk(text + rest, count, "length" if finished else "cancelled")
            return
        yield TextChunk(text, count)


def _end_tokens(model: Any) -> list[int]:
    end_tokens = model.generation_config.eos_token_id
    return end_tokens if isinstance(end_tokens, list) else [end_tokens]
