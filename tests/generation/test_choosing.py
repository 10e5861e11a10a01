"""Tokens are chosen and guessed as transformers chooses and guesses them."""

from typing import Any

import pytest
import torch
from transformers.generation import PromptLookupCandidateGenerator

from glm_model import SamplingOptions, stream_text
from glm_model.generation.prompt_lookup import LONGEST_NGRAM, lookup_guesser
from tests.golden.data import FP32
from tests.golden.models import load


class Spelled:
    """A tokenizer that shows each id as its number."""

    pad_token_id = None
    dropped_leading_spaces = 0.0

    def surface(self, token_id: int) -> str:
        return f"{token_id},"


@pytest.mark.parametrize(
    "options",
    [{"top_k": 0, "top_p": 1.0}, {"top_k": 5, "top_p": 1.0}, {"top_k": 0, "top_p": 0.6}, {"temperature": 1.0}, {}],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_a_stream_draws_what_generate_draws(options: dict[str, Any], seed: int) -> None:
    model = load(FP32)
    prompt = [20, 21, 22, 23, model.config.gmask_token_id, model.config.bos_token_id]
    settings = SamplingOptions(**{"max_length": 40, "temperature": 1.7, **options})
    torch.manual_seed(seed)
    wanted = model.generate(torch.tensor([prompt]), **settings.generation_kwargs())[0, len(prompt) :].tolist()
    torch.manual_seed(seed)
    chunks = list(stream_text(model, Spelled(), prompt, settings))
    found = [int(text) for text in "".join(chunk.text for chunk in chunks).split(",") if text]
    assert found == [token for token in wanted if token != model.config.eos_token_id]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_guesses_are_those_of_transformers(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    guessed = 0
    for length in range(1, 60):
        ids = torch.randint(0, 6, (1, length), generator=generator)
        for longest in (length + 1, length + 2, 200):
            theirs = PromptLookupCandidateGenerator(torch.tensor([0]), count, LONGEST_NGRAM, longest)
            candidates, _ = theirs.get_candidates(ids)
            found = lookup_guesser(count, longest, {0})(ids)
            assert found == candidates[0, length : longest - 1].tolist()
            guessed += bool(found)
    assert guessed > 50
