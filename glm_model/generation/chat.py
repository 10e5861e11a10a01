"""Provide the published ``chat``, ``stream_chat`` and ``stream_generate``, with the behaviour of the original.

This includes its sampling defaults, its clean-up of decoded text, and that the last token is never streamed. All three
take the arguments of transformers' ``generate``. The front-ends use :func:`.stream.stream_text` instead, which streams
the last token too, keeps spaces, and stops within one token.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.generation import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.utils import logging

from ..options import sampling_kwargs
from ..text.chat_format import History, process_response
from ..text.published_stream import PublishedTextStream
from .sampling import InvalidScoreLogitsProcessor
from .transformers_hooks import generate_steps

logger = logging.get_logger(__name__)


class SupportsChat(Protocol):
    """The part of a tokenizer that ``chat`` uses."""

    def __call__(self, text: Any, **kwargs: Any) -> Any: ...
    def build_prompt(self, query: str, history: History | None = None) -> str: ...
    def decode(self, token_ids: list[int]) -> str: ...


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
        """Return one answer of the model to ``query``.

        Args:
            tokenizer: the model's tokenizer.
            query: the question.
            history: earlier (query, answer) rounds; not changed.
            max_length: tokens of prompt and answer; a prompt that long or longer gets one token.
            temperature: divides the scores; 0, and anything below 1e-6, chooses greedily.
            kwargs: further arguments of ``generate``.

        Returns:
            The answer, and the history with this round added.
        """
        inputs = self._chat_inputs(tokenizer, query, history)
        prompt_length = inputs["input_ids"].shape[1]
        settings = {
            "max_length": max_length,
            "num_beams": num_beams,
            **sampling_kwargs(do_sample, temperature, top_p),
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
        """Yield the whole answer so far, and the history with it, after every token except the last.

        The arguments are those of :meth:`chat`.
        """
        inputs = self._chat_inputs(tokenizer, query, history)
        settings = {
            "max_length": max_length,
            **sampling_kwargs(do_sample, temperature, top_p),
            "logits_processor": _guarded(logits_processor),
        }
        answer = PublishedTextStream(tokenizer)
        for output in self.stream_generate(**inputs, **{**settings, **kwargs}):
            response = process_response(answer.push(int(output[0, -1])))
            yield response, [*(history or ()), (query, response)]

    def stream_generate(self, input_ids: Tensor, **kwargs: Any) -> Iterator[Tensor]:
        """Yield all ids so far, LongTensor [batch, length], after every step except the last, as in the original.

        Args:
            input_ids: prompts, LongTensor [batch, length].
            kwargs: arguments of ``generate``, except those of beam search.
        """
        for all_ids, finished in generate_steps(self, input_ids, **kwargs):
            if not finished:
                yield all_ids

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, *args: object, input_ids_length: int, **kwargs: object
    ) -> GenerationConfig:
        # For a prompt of max_length tokens transformers 4.27 warned and generated one token; transformers 5 raises.
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


def _guarded(logits_processor: LogitsProcessorList | None) -> LogitsProcessorList:
    return LogitsProcessorList([*(logits_processor or []), InvalidScoreLogitsProcessor()])
