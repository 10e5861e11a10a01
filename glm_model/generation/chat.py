"""The published ``chat``, ``stream_chat`` and ``stream_generate``, with every habit of the original.

Those are its sampling defaults, its clean-up of decoded text, and the last token, which is never streamed. They take
what transformers' ``generate`` takes. The front-ends use :func:`.stream.stream_text` instead: nothing lost, no space
eaten, stopped within a token.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.generation import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.utils import logging

from ..options import sampling_kwargs
from ..text.chat_format import History, process_response
from ..text.published_stream import DecodeStream
from .sampling import InvalidScoreLogitsProcessor
from .transformers_hooks import generate_steps

logger = logging.get_logger(__name__)


class SupportsChat(Protocol):
    """What ``chat`` needs of a tokenizer."""

    def __call__(self, text: Any, **kwargs: Any) -> Any: ...
    def build_prompt(self, query: str, history: History | None = None) -> str: ...
    def decode(self, token_ids: Any, **kwargs: Any) -> str: ...


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
        """As :meth:`chat`, yielding the whole answer so far after every token but the last; see the module."""
        inputs = self._chat_inputs(tokenizer, query, history)
        settings = {
            "max_length": max_length,
            **sampling_kwargs(do_sample, temperature, top_p),
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


def _guarded(logits_processor: LogitsProcessorList | None) -> LogitsProcessorList:
    return LogitsProcessorList([*(logits_processor or []), InvalidScoreLogitsProcessor()])
