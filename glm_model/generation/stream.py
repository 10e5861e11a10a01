"""Stream the text of an answer while it is generated, as the front-ends show it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..model.decoder import GLMForCausalLM
from ..model.positions import derive_position_ids
from ..options import FinishReason, SamplingOptions
from ..text.chat_format import ResponseStream
from ..text.incremental_decoder import IncrementalDecoder, TokenSurfaces
from .alone import run
from .answer import Answer, AnswerRow, make_guesser
from .requests import Writer
from .row_sampling import RowSampler
from .sampling import Chooser, chat_sampler


@dataclass(frozen=True)
class TextChunk:
    """A piece of an answer.

    Args:
        text: new text, always whole characters; may be empty.
        token_count: number of tokens of the answer so far, without the end token.
        finish_reason: on the last chunk "stop" (the model ended its answer), "length" or "cancelled"; else None.
    """

    text: str
    token_count: int
    finish_reason: FinishReason | None = None


def stream_text(
    model: GLMForCausalLM,
    tokenizer: TokenSurfaces,
    prompt_ids: list[int],
    options: SamplingOptions,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[TextChunk]:
    """Yield an answer while it is generated, including its last token.

    The text is that of ``chat``, but spaces are not cleaned up.

    Args:
        model: a GLM for causal language modelling, in evaluation mode.
        tokenizer: the model's tokenizer.
        prompt_ids: the ids of the whole prompt, including ``<sop>``.
        options: the options of sampling, and the longest text.
        should_stop: a function that is called after every token; True ends the answer as cancelled.

    Raises:
        ValueError: the prompt leaves no room for an answer within ``options.max_length``.
        GLMError: the model's scores are NaN or infinite, as those of a model that overflows in float16.
    """
    chooser = chat_sampler(options, model.device)
    return run(model, write_text(model, tokenizer, prompt_ids, options, should_stop, chooser))


def write_text(
    model: GLMForCausalLM,
    tokenizer: TokenSurfaces,
    prompt_ids: list[int],
    options: SamplingOptions,
    should_stop: Callable[[], bool] = lambda: False,
    chooser: Chooser | None = None,
) -> Writer[TextChunk, None]:
    """Return the writer of :func:`stream_text`, with the same arguments.

    Args:
        chooser: chooses the tokens; None chooses by ``options``, together with other rows.
    """
    if len(prompt_ids) >= options.max_length:
        raise ValueError(
            f"the prompt has {len(prompt_ids)} tokens and max_length is {options.max_length}: no room for an answer. "
            "Shorten the prompt or raise max_length."
        )
    decoder, response = IncrementalDecoder(tokenizer), ResponseStream()
    ends = end_token_ids(model)
    prompt = torch.tensor([prompt_ids], device=model.device)
    guess = make_guesser(options.prompt_lookup, options.max_length, ends)
    chooser = chooser or RowSampler.from_options(options)
    answer = Answer(prompt, chooser, ends, options.max_length, guess=guess)
    row = AnswerRow(
        answer,
        prompt_ids.index(model.config.bos_token_id),
        lambda ids: derive_position_ids(model.config, ids, torch.ones_like(ids), options.max_length),
        torch.ones_like(prompt),
        moving_tokens=model.config.mask_token_priority,
    )
    count = 0
    try:
        while True:
            for token in (yield from row.next_tokens()):
                if token in ends:
                    yield TextChunk(response.push(decoder.finish()) + response.finish(), count, "stop")
                    return
                count += 1
                text = response.push(decoder.push([token]))
                is_last = answer.finished and count == answer.length
                if is_last or should_stop():
                    rest = response.push(decoder.finish()) + response.finish()
                    yield TextChunk(text + rest, count, "length" if is_last else "cancelled")
                    return
                yield TextChunk(text, count)
    finally:
        row.leave()


def end_token_ids(model: GLMForCausalLM) -> list[int]:
    """Return the ids that end a chat's answer, from the model's generation configuration."""
    ends: int | list[int] = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]
