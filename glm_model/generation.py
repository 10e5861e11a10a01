"""Talking with a model: the published ``chat`` and ``stream_chat``, and the stream that the front-ends use.

The published methods keep every habit of the original (its sampling defaults, its decode clean-up, the last token
that is never streamed). :func:`stream_text` is the better path: nothing lost, no space eaten, stopped within a token.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers.generation import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging

from .chat_format import History, ResponseStream, process_response
from .decode_stream import DecodeStream
from .decoding import generate_steps
from .parallel.following import on_every_rank
from .text_stream import IncrementalDecoder

logger = logging.get_logger(__name__)

# What transformers 4.27 added silently to the published sampling settings.
PUBLISHED_TOP_K = 50

# Scores divided by less overflow, or differ by so much that the best one is drawn in any case.
_LOWEST_TEMPERATURE = 1e-6


def is_greedy(temperature: float | None) -> bool:
    """Whether a temperature, 0 or more, is to take the best token: below 1e-6. None is left to transformers."""
    return temperature is not None and 0 <= temperature < _LOWEST_TEMPERATURE


def require_seed(seed: int | None) -> None:
    """Raises ValueError unless it is None or a seed that PyTorch takes: a whole number of at most 64 bits."""
    if seed is not None and (not isinstance(seed, int) or not -(2**63) <= seed < 2**64):
        raise ValueError(f"seed must be a whole number of at most 64 bits, or None; not {seed!r}")


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose tokens.

    Args:
        max_length: tokens of prompt and answer together.
        temperature: 0, and anything below 1e-6, is greedy.
        top_p: keep the smallest set of tokens whose probability reaches this; 1 keeps all.
        top_k: keep so many tokens; 0 keeps all.
        seed: makes one answer reproducible on one machine; None draws anew each time.
        prompt_lookup: how many tokens of the text so far to try as its continuation in each step; 0 for none. The
            tokens stay the same, and come faster where an answer quotes what came before.

    Raises:
        ValueError: a value outside its range.
    """

    max_length: int = 2048
    temperature: float = 0.95
    top_p: float = 0.7
    top_k: int = PUBLISHED_TOP_K
    seed: int | None = None
    prompt_lookup: int = 0

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {self.max_length}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, not {self.top_k}")
        require_seed(self.seed)
        if self.prompt_lookup < 0:
            raise ValueError(f"prompt_lookup must be 0 (off) or more, not {self.prompt_lookup}")

    def generation_kwargs(self) -> dict[str, Any]:
        """The same settings as arguments of ``generate``."""
        return {"max_length": self.max_length, **_sampling(True, self.temperature, self.top_p, self.top_k)}


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


class SupportsChat(Protocol):
    """What ``chat`` needs of a tokenizer."""

    def __call__(self, text: Any, **kwargs: Any) -> Any: ...
    def build_prompt(self, query: str, history: History | None = None) -> str: ...
    def decode(self, token_ids: Any, **kwargs: Any) -> str: ...


class InvalidScoreLogitsProcessor(LogitsProcessor):
    """The original's guard: if any score of the batch is NaN or infinite, every row chooses ``token_id``."""

    def __init__(self, token_id: int = 5) -> None:
        self.token_id = token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # A sum is finite only if all are, and costs a fraction; if it is not, it may have overflowed.
        if not math.isfinite(float(scores.sum())) and not torch.isfinite(scores).all():
            scores = torch.zeros_like(scores)
            scores[..., self.token_id] = 5e4
        return scores


class ChatMixin(GenerationMixin):
    """The methods of the published ``ChatGLMForConditionalGeneration``."""

    @torch.no_grad()
    def chat(
        self,
        tokenizer: SupportsChat,
        query: str,
        history: History | None = None,
        max_length: int = 2048,
        num_beams: int = 1,
        do_sample: bool = True,
        top_p: float = 0.7,
        temperature: float = 0.95,
        logits_processor: LogitsProcessorList | None = None,
        **kwargs: Any,
    ) -> tuple[str, History]:
        """One answer.

        Args:
            history: earlier (query, answer) rounds; not changed.
            max_length: tokens of prompt and answer; a prompt that long or longer gets one token.
            temperature: 0, and anything below 1e-6, is greedy.
            kwargs: anything else that ``generate`` takes.

        Returns:
            The answer, and the history with this round added.
        """
        inputs = self._chat_inputs(tokenizer, query, history)
        prompt_length = inputs["input_ids"].shape[1]
        settings = {
            "max_length": max_length,
            "num_beams": num_beams,
            **_sampling(do_sample, temperature, top_p),
            "logits_processor": _guarded(logits_processor),
        }
        output = self.generate(**inputs, **{**settings, **kwargs})
        response = process_response(tokenizer.decode(output[0, prompt_length:].tolist()))
        return response, [*(history or ()), (query, response)]

    def stream_chat(
        self,
        tokenizer: SupportsChat,
        query: str,
        history: History | None = None,
        max_length: int = 2048,
        do_sample: bool = True,
        top_p: float = 0.7,
        temperature: float = 0.95,
        logits_processor: LogitsProcessorList | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, History]]:
        """As :meth:`chat`, yielding the whole answer so far after every token but the last; see the module."""
        inputs = self._chat_inputs(tokenizer, query, history)
        settings = {
            "max_length": max_length,
            **_sampling(do_sample, temperature, top_p),
            "logits_processor": _guarded(logits_processor),
        }
        answer = DecodeStream(tokenizer)
        for output in self.stream_generate(**inputs, **{**settings, **kwargs}):
            response = process_response(answer.push(int(output[0, -1])))
            yield response, [*(history or ()), (query, response)]

    def stream_generate(self, input_ids: Tensor, **kwargs: Any) -> Iterator[Tensor]:
        """All ids so far after every step but the last, LongTensor [batch, length]; as the original.

        Args:
            input_ids: prompts [batch, length].
            kwargs: what ``generate`` takes, except beams.
        """
        for all_ids, finished in generate_steps(self, input_ids, **kwargs):
            if not finished:
                yield all_ids

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, *args: Any, input_ids_length: int, **kwargs: Any
    ) -> GenerationConfig:
        # transformers 4.27 warned where 5 refuses, and wrote a token.
        prepared: GenerationConfig = super()._prepare_generated_length(
            generation_config, *args, input_ids_length=input_ids_length, **kwargs
        )
        if prepared.max_length <= input_ids_length:
            logger.warning(
                "the prompt has %d tokens and max_length, which counts prompt and answer, is %d: one token follows. "
                "Raise max_length, or pass max_new_tokens.",
                input_ids_length,
                prepared.max_length,
            )
            prepared.max_length = input_ids_length + 1
        return prepared

    def _chat_inputs(self, tokenizer: SupportsChat, query: str, history: History | None) -> dict[str, Tensor]:
        prompt = tokenizer.build_prompt(query, history)
        inputs: dict[str, Tensor] = tokenizer([prompt], return_tensors="pt").to(self.device)
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))  # one prompt has no padding
        return inputs


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


def _sampling(do_sample: bool, temperature: float, top_p: float, top_k: int = PUBLISHED_TOP_K) -> dict[str, Any]:
    if not do_sample or is_greedy(temperature):
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}


def _guarded(logits_processor: LogitsProcessorList | None) -> LogitsProcessorList:
    return LogitsProcessorList([*(logits_processor or []), InvalidScoreLogitsProcessor()])
