"""`generate`'s beams against a slow search written from transformers 4.27's rules, on drawn models and settings."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model import ChatGLMConfig, ChatGLMForCausalLM

SOP, EOP, MASK, GMASK, PAD = 11, 12, 13, 14, 3
PROMPT = [7, 8, GMASK, SOP]
Beams = list[tuple[float, list[int]]]


def draw_model(seed: int) -> ChatGLMForCausalLM:
    torch.manual_seed(seed)
    config = ChatGLMConfig(
        vocab_size=15, hidden_size=16, num_layers=1, num_attention_heads=2, inner_hidden_size=16, use_cache=True,
        bos_token_id=SOP, eos_token_id=EOP, mask_token_id=MASK, gmask_token_id=GMASK, pad_token_id=PAD,
        initializer_range=0.4,
    )  # fmt: skip
    return ChatGLMForCausalLM(config).eval()


def slow_beams(
    log_probabilities: Callable[[list[int]], Tensor],
    num_beams: int,
    max_length: int,
    end_token: int,
    length_penalty: float,
    early_stopping: bool | str,
) -> Beams:
    """The finished beams of one prompt, best first: an ended one counts no end token into its length."""
    running: Beams = [(0.0, PROMPT)]
    finished: Beams = []

    def finish(total: float, ids: list[int], length: int) -> None:
        finished.append((total / length**length_penalty, ids))
        finished.sort(key=lambda beam: -beam[0])
        del finished[num_beams:]

    for length in range(len(PROMPT), max_length):
        grown = [
            (total + score, [*ids, token])
            for total, ids in running
            for token, score in enumerate(log_probabilities(ids).tolist())
        ]
        grown = sorted(grown, key=lambda beam: -beam[0])[: 2 * num_beams]
        for total, ids in grown[:num_beams]:
            if ids[-1] == end_token:
                finish(total, ids, length)
        running = [beam for beam in grown if beam[1][-1] != end_token][:num_beams]
        best_length = max_length if early_stopping == "never" and length_penalty > 0 else length + 1
        if len(finished) == num_beams and (
            early_stopping is True or finished[-1][0] >= grown[0][0] / best_length**length_penalty
        ):
            return finished
    for total, ids in running:
        finish(total, ids, max_length)
    return finished


@pytest.mark.parametrize("seed", [12, 14, 22, 60, 63, 105, 120, 137])
@torch.no_grad()
def test_beams_of_transformers_4_27(seed: int) -> None:
    model, chance = draw_model(seed), random.Random(seed)
    settings: dict[str, Any] = {
        "num_beams": chance.choice([2, 3]),
        "max_length": len(PROMPT) + chance.choice([1, 2, 5, 8]),
        "length_penalty": chance.choice([-1.0, 0.0, 0.5, 1.0, 2.0]),
        "early_stopping": chance.choice([False, True, "never"]),
    }
    end_token = chance.choice([EOP, 5])  # the model's own, or the call's
    output = model.generate(
        torch.tensor([PROMPT]), eos_token_id=end_token, do_sample=False, num_return_sequences=settings["num_beams"],
        output_scores=True, return_dict_in_generate=True, **settings,
    )  # fmt: skip

    def log_probabilities(ids: list[int]) -> Tensor:
        return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)

    beams = slow_beams(log_probabilities, end_token=end_token, **settings)
    width = max(len(ids) for _, ids in beams)
    assert output.sequences.tolist() == [ids + [PAD] * (width - len(ids)) for _, ids in beams]
    torch.testing.assert_close(output.sequences_scores, torch.tensor([score for score, _ in beams]))


@pytest.mark.parametrize("options", [{"num_beams": 3, "do_sample": False}, {"do_sample": True}], ids=["beams", "draws"])
def test_given_positions_of_several_answers(options: dict[str, Any]) -> None:
    """Masks and positions from outside, as the tokenizer pads a batch, for each answer of each prompt."""
    model = draw_model(0)
    ids = torch.tensor([PROMPT, [PAD, *PROMPT[1:]]])
    mask = torch.ones(4, 4).triu(1).bool().repeat(2, 1, 1, 1)
    mask[..., :3] = False
    mask[1, :, 0] = mask[1, :, :, 0] = True
    given = {"attention_mask": mask, "position_ids": model.derive_position_ids(ids)}
    answers = []
    for inputs in ({}, given):
        torch.manual_seed(0)
        answers.append(model.generate(ids, num_return_sequences=3, max_new_tokens=5, **inputs, **options))
    assert torch.equal(*answers)
    assert len(answers[0]) == 6
