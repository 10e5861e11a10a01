"""Prompt lookup: the same tokens in fewer passes, through `generate`, `stream_text` and `stream_chat`."""

import copy
from typing import Any

import pytest
import torch

from glm_model import SamplingOptions, stream_text
from glm_model.errors import UnsupportedError
from glm_model.generation.transformers_hooks import generate_steps
from tests.golden.data import FP32
from tests.golden.models import load

LENGTH = 120


class Passes:
    """Counts the model's passes, and the tokens that each was given."""

    def __init__(self, model: Any) -> None:
        self.given: list[int] = []
        self._hook = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, model: Any, arguments: Any, named: Any) -> None:
        ids = arguments[0] if arguments else named["input_ids"]
        self.given.append(ids.shape[1])

    def __enter__(self) -> "Passes":
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()


@pytest.fixture(scope="module")
def model() -> Any:
    return load(FP32)


def prompts(model: Any) -> list[torch.Tensor]:
    """Repetitive ones, so that there is something to look up; with [gMASK] and with [MASK]."""
    config = model.config
    made = []
    for seed, mask in ((0, config.gmask_token_id), (1, config.mask_token_id), (2, config.gmask_token_id)):
        words = torch.randint(10, 60, (7,), generator=torch.Generator().manual_seed(seed)).tolist()
        made.append(torch.tensor([[*words, *words, mask, config.bos_token_id]]))
    return made


def steps(model: Any, ids: torch.Tensor, lookup: int, **options: Any) -> list[int]:
    settings = {"max_length": LENGTH, "do_sample": False} | options
    *_, (all_ids, finished) = generate_steps(model, ids, prompt_lookup_num_tokens=lookup, **settings)
    assert finished
    return all_ids[0].tolist()


@pytest.mark.parametrize("lookup", [1, 4, 10])
def test_the_tokens_are_the_same(model: Any, lookup: int) -> None:
    several = 0
    for ids in prompts(model):
        wanted = model.generate(ids, max_length=LENGTH, do_sample=False)[0].tolist()
        with Passes(model) as passes:
            assert steps(model, ids, lookup) == wanted
        several += sum(given > 1 for given in passes.given[1:])
        assert len(passes.given) < len(wanted) - ids.shape[1], "not one guess was right"
        assert (
            model.generate(ids, max_length=LENGTH, do_sample=False, prompt_lookup_num_tokens=lookup)[0].tolist()
            == wanted
        )
    assert several > 3


def test_sampled_tokens_are_the_same(model: Any) -> None:
    """Each token is drawn from its own distribution, guessed or not, in the same order."""
    options = {"do_sample": True, "temperature": 0.5, "top_k": 5}
    for ids in prompts(model):
        drawn = [steps(model, ids, lookup, generator=torch.Generator().manual_seed(3), **options) for lookup in (0, 5)]
        assert drawn[0] == drawn[1]


@pytest.mark.parametrize("room", range(1, 12))
def test_the_length_is_kept(model: Any, room: int) -> None:
    ids = prompts(model)[0]
    wanted = model.generate(ids, max_new_tokens=room, do_sample=False)[0].tolist()
    assert steps(model, ids, 4, max_length=ids.shape[1] + room) == wanted


def test_a_mask_token_in_the_answer(model: Any) -> None:
    """[gMASK] that is generated after a [MASK] prompt moves the blank; quoting it does not move it again."""
    config = model.config
    prompt = prompts(model)[1]
    forced = [20, 21, config.gmask_token_id, 22, 20, 21, config.gmask_token_id, 22, 20, 21]

    def force(batch: int, ids: torch.Tensor) -> list[int]:
        place = len(ids) - prompt.shape[1]
        return [forced[place]] if place < len(forced) else list(range(10, 60))

    options = {"prefix_allowed_tokens_fn": force}
    wanted = model.generate(prompt, max_length=60, do_sample=False, **options)[0].tolist()
    assert steps(model, prompt, 4, max_length=60, **options) == wanted


def test_a_cache_given_holds_what_was_accepted(model: Any) -> None:
    from transformers import DynamicCache

    ids = prompts(model)[0]
    cache = DynamicCache()
    all_ids = steps(model, ids, 6, past_key_values=cache)
    assert cache.get_seq_length() == len(all_ids) - 1
    assert not cache.layers[0].keys.is_inference()


@pytest.mark.parametrize("helper", ["lookup", "assistant"])
def test_given_positions(model: Any, helper: str) -> None:
    """Tokens that are tried get the positions that GLM gives them, not those of a causal model."""
    options = {"prompt_lookup_num_tokens": 4} if helper == "lookup" else {"assistant_model": copy.deepcopy(model)}
    for ids in prompts(model):
        settings = {"max_length": 40, "do_sample": False, "position_ids": 2 * model.derive_position_ids(ids)}
        wanted = model.generate(ids, **settings)
        assert torch.equal(model.generate(ids, **settings, **options), wanted)


def test_a_batch_is_refused(model: Any) -> None:
    ids = prompts(model)[0].repeat(2, 1)
    with pytest.raises(UnsupportedError, match="prompt_lookup_num_tokens"):
        next(iter(generate_steps(model, ids, prompt_lookup_num_tokens=3, max_length=LENGTH, do_sample=False)))


def test_the_front_ends_stream(demo: tuple[Any, Any]) -> None:
    model, tokenizer = demo
    text = "one two three four five six seven eight nine ten, one two three four five"
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    answers = []
    for lookup in (0, 8):
        options = SamplingOptions(max_length=len(ids) + 40, temperature=0, prompt_lookup=lookup)
        chunks = list(stream_text(model, tokenizer, ids, options))
        answers.append(("".join(chunk.text for chunk in chunks), [chunk.token_count for chunk in chunks]))
    assert answers[0] == answers[1]


def test_stream_chat(demo: tuple[Any, Any]) -> None:
    model, tokenizer = demo
    plain, looked_up = (
        list(model.stream_chat(tokenizer, "你好 你好", do_sample=False, max_length=60, **options))
        for options in ({}, {"prompt_lookup_num_tokens": 5})
    )
    assert plain == looked_up


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt_lookup must be 0"):
        SamplingOptions(prompt_lookup=-1)


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    from glm_model.loading import load as load_folder

    return load_folder(device="cpu")
