"""Who sees whom. The context is bidirectional and ends before the first <sop>; the rest is causal; padding is apart.

A picture is a row for each token and a column for each token it may look at: `x` sees, `.` does not.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model.model import masking
from tests.rules.tiny import GMASK, MASK, PAD, SOP, chatglm, glm130b, ids

CONTEXT_OF_3 = """
    xxx...
    xxx...
    xxx...
    xxxx..
    xxxxx.
    xxxxxx
"""
PADDED_BY_2 = """
    ........
    ........
    ..xxx...
    ..xxx...
    ..xxx...
    ..xxxx..
    ..xxxxx.
    ..xxxxxx
"""


def lines(drawing: str) -> list[str]:
    return drawing.split()


def drawn(masked: Tensor) -> list[str]:
    """A bool mask [1, 1, rows, columns], True = masked, as a picture."""
    return ["".join(".x"[not value] for value in row) for row in masked[0, 0].tolist()]


def mask_of(length: int, context: int, padding: int = 0) -> Tensor:
    return masking.prefix_mask(torch.tensor([padding]), torch.tensor([context]), length)


# ---- the functions


def test_context_ends_at_the_first_sop() -> None:
    assert masking.context_length(ids([7, 8, SOP, 9, SOP], [SOP, 7, 8, 9, 5]), SOP).tolist() == [2, 0]


def test_context_without_sop_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 of input_ids holds no <sop>"):
        masking.context_length(ids([7, SOP], [7, 8]), SOP)


def test_context_is_seen_by_everybody_in_both_directions() -> None:
    assert [row[:3] for row in drawn(mask_of(6, 3))] == ["xxx"] * 6


def test_context_does_not_see_sop() -> None:
    """The mask's edge lies exactly before the first <sop>: its column is hidden from the context, itself it sees."""
    assert [row[3] for row in drawn(mask_of(6, 3))] == [*"...", *"xxx"]


def test_answer_is_causal_from_sop_on() -> None:
    assert [row[3:] for row in drawn(mask_of(6, 3))[3:]] == ["x..", "xx.", "xxx"]


def test_mask_of_whole_sequences() -> None:
    assert drawn(mask_of(6, 3)) == lines(CONTEXT_OF_3)


def test_padding_is_seen_by_nobody() -> None:
    assert {row[:2] for row in drawn(mask_of(8, 5, padding=2))} == {".."}


def test_padding_sees_nobody() -> None:
    assert drawn(mask_of(8, 5, padding=2))[:2] == ["." * 8] * 2


def test_padding_changes_nothing_for_the_others() -> None:
    assert drawn(mask_of(8, 5, padding=2)) == lines(PADDED_BY_2)


def test_context_blocks_are_0_for_context_and_minus_1_for_padding_sop_and_answer() -> None:
    blocks = masking.context_block_ids(torch.tensor([0, 2]), torch.tensor([3, 4]), 6)
    assert blocks.tolist() == [[0, 0, 0, -1, -1, -1], [-1, -1, 0, 0, -1, -1]]


def test_padding_is_counted_in_front_only() -> None:
    assert masking.left_padding(ids([PAD, PAD, 7, PAD, SOP], [7, PAD, PAD, 8, SOP]), PAD).tolist() == [2, 0]
    assert masking.padding_from_mask(torch.tensor([[0, 0, 1, 0, 1], [1, 0, 0, 1, 1]])).tolist() == [2, 0]
    assert masking.mask_from_padding(torch.tensor([2, 0]), 4).tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


def test_extended_mask_new_rows_see_what_the_last_row_sees_and_each_other_causally() -> None:
    given = torch.tensor([[[[False, True, True], [False, False, True], [True, False, False]]]])
    assert drawn(masking.extend_mask(given, 5)) == lines("""
        x....
        xx...
        .xx..
        .xxx.
        .xxxx
    """)


def test_extended_mask_of_a_prompt_is_the_mask_of_the_whole() -> None:
    assert drawn(masking.extend_mask(mask_of(6, 5, padding=2), 8)) == lines(PADDED_BY_2)
    assert drawn(masking.extend_mask(mask_of(6, 3), 6)) == lines(CONTEXT_OF_3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_additive_mask_is_finite_and_swallows_every_score(dtype: torch.dtype) -> None:
    added = masking.additive_mask(torch.tensor([[True, False], [False, False]]), dtype)
    assert added.isfinite().all()
    assert added[0, 0] == 0
    assert (added[1] < -6e4).all()
    assert (added[1] + torch.tensor([3.0, -5.0]).to(dtype)).softmax(dim=-1).tolist() == [0.5, 0.5]


# ---- the models, seen from outside: whose output changes when a token's embedding does


def seen_by_model(model: Any, row: list[int], **inputs: Any) -> list[str]:
    """A picture of one layer's mask; a token's own column is left out (`-`), as the residual carries it anyway."""
    length = len(row)
    noise = torch.eye(length + 1, length)[:, :, None]  # a batch that differs in one token each; the last row in none

    def disturb(_module: Any, _inputs: Any, embeddings: Tensor) -> Tensor:
        return embeddings + noise * torch.linspace(0.5, 1.5, embeddings.shape[-1])

    hook = model.model.embed_tokens.register_forward_hook(disturb)
    batch = {name: value.expand(length + 1, *value.shape[1:]) for name, value in inputs.items()}
    output = model.model(ids(row).expand(length + 1, -1), use_cache=False, **batch).last_hidden_state
    hook.remove()
    changed = (output[:-1] - output[-1]).abs().amax(dim=-1).T > 1e-5
    return without_diagonal("\n".join("".join(".x"[value] for value in line) for line in changed.tolist()))


def without_diagonal(drawing: str) -> list[str]:
    return [line[:i] + "-" + line[i + 1 :] for i, line in enumerate(lines(drawing))]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [chatglm, glm130b])
def test_model_context_is_bidirectional_and_does_not_see_sop(make: Any, attention: str) -> None:
    model = make(attn_implementation=attention)
    assert seen_by_model(model, [7, 8, GMASK, SOP, 9, 10]) == without_diagonal(CONTEXT_OF_3)
    assert seen_by_model(model, [7, MASK, 8, SOP, SOP, 10]) == without_diagonal(CONTEXT_OF_3)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [chatglm, glm130b])
def test_model_padding_is_seen_by_nobody(make: Any, attention: str) -> None:
    model = make(attn_implementation=attention)
    picture = seen_by_model(model, [PAD, PAD, 7, 8, GMASK, SOP, 9, 10])
    assert picture[2:] == without_diagonal(PADDED_BY_2)[2:]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_model_takes_a_given_mask_in_which_true_means_masked(attention: str) -> None:
    drawing = """
        x.x...
        xxx...
        ..x...
        x.xx..
        xxxxx.
        .xxx.x
    """
    masked = torch.tensor([[[[character == "." for character in line] for line in lines(drawing)]]])
    picture = seen_by_model(chatglm(attn_implementation=attention), [7, 8, GMASK, SOP, 9, 10], attention_mask=masked)
    assert picture == without_diagonal(drawing)
