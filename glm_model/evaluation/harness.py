"""Registers GLM with EleutherAI's lm-eval as the model ``glm``, when this module is imported.

lm-eval 0.4 has no entry points for models. So ``python -m glm_model.evaluation`` imports this module before it calls
lm-eval's command, and a program imports it before ``lm_eval.simple_evaluate(model="glm", model_args=...)``.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from ..errors import UnsupportedError
from ..loading import load
from ..options import LoadOptions
from .encoding import EvaluationOptions, MaskName, Prompt, ScoredSequence, TaskEncoder
from .scoring import scores_as_computed
from .writing import write

logger = logging.getLogger(__name__)


@register_model("glm")
class GLMHarness(LM):
    """ChatGLM-6B, GLM-130B or the demo model for lm-eval's tasks.

    Args:
        path: folder of the model; see :func:`glm_model.load`.
        device: as for ``load``; lm-eval passes its ``--device`` as this argument.
        batch_size: sequences in a forward pass; a number, not lm-eval's "auto".
        max_batch_size: lm-eval's limit for "auto"; it has no effect here.
        mask, unidirectional, blanks, max_length, rolling_stride: see :class:`EvaluationOptions`.
        loading: other fields of :class:`glm_model.options.LoadOptions`, such as ``quantize``.

    Raises:
        ValueError: there is no path, the batch size is not a positive number, or an option is unknown or out of range.
        GLMError: the model cannot be loaded.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        device: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        mask: MaskName | None = None,
        unidirectional: bool = False,
        blanks: bool = True,
        max_length: int | None = None,
        rolling_stride: int = 256,
        **loading: Any,
    ) -> None:
        super().__init__()
        if path is None:
            raise ValueError("name the model: --model_args path=FOLDER")
        self.batch_size = _batch_size(batch_size)
        options = EvaluationOptions(mask, unidirectional, blanks, max_length, rolling_stride)
        self.model, self.tokenizer = load(str(path), options=_load_options(device, loading))
        self._path = str(path)
        self._device = self.model.device
        self._encoder = TaskEncoder(self.model.config, self.tokenizer, options)

    # ---- requests

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (log-probability, whether greedy decoding writes it) of each request's continuation."""
        sequences = [self._encoder.option(*request.args) for request in requests]
        _warn_of_cuts(sequences)
        results: dict[int, tuple[float, bool]] = {}
        scores = scores_as_computed(self.model, sequences, self.batch_size)
        for index, score in tqdm(scores, "loglikelihood", len(sequences), disable=disable_tqdm):
            results[index] = score.log_probability, score.is_greedy
            self.cache_hook.add_partial("loglikelihood", requests[index].args, results[index])
        return [results[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text, summed over the windows of :meth:`TaskEncoder.windows`."""
        windows = [(number, window) for number, request in enumerate(requests) for window in self._windows(request)]
        totals = [0.0] * len(requests)
        scores = scores_as_computed(self.model, [window for _, window in windows], self.batch_size)
        for index, score in tqdm(scores, "loglikelihood_rolling", len(windows), disable=disable_tqdm):
            totals[windows[index][0]] += score.log_probability
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return each request's continuation, up to the first of its ``until`` texts."""
        settings = [normalize_gen_kwargs(request.args[1]) for request in requests]
        prompts = [
            self._encoder.prompt(request.args[0], setting["max_gen_toks"])
            for request, setting in zip(requests, settings, strict=True)
        ]
        _warn_of_cuts(prompts)
        texts: dict[int, str] = {}
        with tqdm(total=len(requests), desc="generate_until", disable=disable_tqdm) as progress:
            for batch in self._batches(prompts, settings):
                rows = [prompts[index].input_ids for index in batch]
                written = write(self.model, self.tokenizer, rows, **_generate_arguments(settings[batch[0]]))
                texts |= zip(batch, written, strict=True)
                for index in batch:
                    self.cache_hook.add_partial("generate_until", requests[index].args, texts[index])
                progress.update(len(batch))
        return [texts[index] for index in range(len(requests))]

    def _windows(self, request: Any) -> list[ScoredSequence]:
        return self._encoder.windows(*request.args)

    def _batches(self, prompts: Sequence[Prompt], settings: Sequence[Any]) -> Iterable[list[int]]:
        """Yield the indices of requests that run together: of equal settings and similar length, the longest first."""

        def key(index: int) -> str:
            return repr(sorted(settings[index].items()))

        order = sorted(range(len(prompts)), key=lambda index: (key(index), -len(prompts[index].input_ids)))
        for _, alike in groupby(order, key):
            indices = list(alike)
            for start in range(0, len(indices), self.batch_size):
                yield indices[start : start + self.batch_size]

    # ---- lm-eval's --apply_chat_template

    @property
    def tokenizer_name(self) -> str:
        """The name by which lm-eval tells caches of rendered requests apart."""
        return self._path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the chat template for lm-eval's log, None if none is applied; its name is ignored, as there is one."""
        return self.tokenizer.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return messages as the text of the published prompt.

        Raises:
            TokenizerError: the messages are out of order.
            UnsupportedError: the last message is the beginning of an answer, which would stand before ``<sop>``.
        """
        if not add_generation_prompt:
            raise UnsupportedError("an answer cannot be begun in the prompt: leave out gen_prefix (assistant prefill)")
        text: str = self.tokenizer.apply_chat_template(chat_history, add_generation_prompt=True, tokenize=False)
        return text


def _load_options(device: str, others: Mapping[str, Any]) -> LoadOptions:
    known = [each.name for each in fields(LoadOptions)]
    unknown = [name for name in others if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]} is no argument of the model glm; of loading it takes {', '.join(known)}")
    # "cuda:0" is lm-eval's default for --device, also without a GPU and on each of several ranks.
    return LoadOptions(device="auto" if device == "cuda:0" else device, **others)


def _batch_size(given: int | str) -> int:
    if not str(given).isdecimal() or int(given) < 1:
        raise ValueError(f"batch_size must be a number of 1 or more, not {given!r}: sequences are not tried for size")
    return int(given)


def _generate_arguments(settings: Any) -> dict[str, Any]:
    """Return lm-eval's normalised settings as arguments of :func:`write`."""
    arguments = dict(settings)
    renamed = {"stops": arguments.pop("until"), "new_tokens": arguments.pop("max_gen_toks")}
    if not arguments["do_sample"]:
        for name in ("temperature", "top_p", "top_k"):  # These are for sampling only.
            arguments.pop(name, None)
    return {**renamed, **arguments}


def _warn_of_cuts(made: Sequence[ScoredSequence] | Sequence[Prompt]) -> None:
    cut = [sequence.dropped for sequence in made if sequence.dropped]
    if cut:
        logger.warning(
            "%d of %d contexts are longer than the model takes and were cut, mostly at their beginning, by up to %d "
            "tokens",
            len(cut),
            len(made),
            max(cut),
        )
