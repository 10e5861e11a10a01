"""Position ids: what row 0 and row 1 hold in the context, at the blank, in the answer, and beside padding."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from glm_model.model.masking import mask_position
from glm_model.model.positions import derive_position_ids, extend_position_ids
from tests.rules.tiny import GMASK, MASK, PAD, SMASK, SOP, chatglm, chatglm_config, glm130b, glm130b_config, ids


def block_positions(*row: int, attention_mask: Tensor | None = None) -> list[list[int]]:
    rows: list[list[int]] = derive_position_ids(chatglm_config(), ids(row), attention_mask)[0].tolist()
    return rows


def positions(*row: int) -> list[int]:
    row_0: list[int] = derive_position_ids(glm130b_config(), ids(row))[0].tolist()
    return row_0


# ---- ChatGLM-6B: two rows


def test_row_0_counts_through_the_context_and_stays_at_the_blank_from_sop_on() -> None:
    row_0, _ = block_positions(7, MASK, 8, 9, SOP, 10, 11)
    assert row_0 == [0, 1, 2, 3, 1, 1, 1]


def test_row_1_is_0_in_the_context_and_counts_from_1_at_sop() -> None:
    _, row_1 = block_positions(7, MASK, 8, 9, SOP, 10, 11)
    assert row_1 == [0, 0, 0, 0, 1, 2, 3]


def test_gmask_at_the_end_holds_the_answer_at_its_own_position() -> None:
    assert block_positions(7, 8, GMASK, SOP, 10, 11) == [[0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3]]


def test_blank_of_chatglm_is_gmask_even_where_a_mask_stands_before_it() -> None:
    row_0, _ = block_positions(7, MASK, 8, GMASK, SOP, 10)
    assert row_0 == [0, 1, 2, 3, 3, 3]


def test_blank_is_the_first_of_several_masks() -> None:
    row_0, _ = block_positions(7, MASK, 8, MASK, SOP, 10)
    assert row_0[4:] == [1, 1]


def test_blank_of_chatglm_moves_when_a_gmask_is_generated() -> None:
    row_0, _ = block_positions(7, MASK, 8, SOP, 10, GMASK, 11)
    assert row_0 == [0, 1, 2, 5, 5, 5, 5]


def test_positions_count_from_the_first_sop() -> None:
    assert block_positions(7, MASK, SOP, 8, SOP, 9) == [[0, 1, 1, 1, 1, 1], [0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("mask_token", [GMASK, MASK])
def test_padding_shifts_no_position(mask_token: int) -> None:
    unpadded = block_positions(7, 8, mask_token, 9, SOP, 10)
    padded = block_positions(PAD, PAD, PAD, 7, 8, mask_token, 9, SOP, 10)
    assert padded == [[0, 0, 0, *row] for row in unpadded]


def test_padding_is_what_a_given_mask_says_not_the_pad_token() -> None:
    mask = torch.tensor([[0, 1, 1, 1, 1, 1]])
    row_0, _ = block_positions(PAD, PAD, 8, GMASK, SOP, 10, attention_mask=mask)
    assert row_0 == [0, 0, 1, 2, 2, 2]


# ---- GLM-130B: one row


def test_glm130b_answer_counts_on_after_gmask() -> None:
    assert positions(7, 8, GMASK, SOP, 10, 11) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("mask_token", [MASK, SMASK])
def test_glm130b_answer_stays_at_mask_and_smask(mask_token: int) -> None:
    assert positions(7, mask_token, 8, SOP, 10, 11) == [0, 1, 2, 1, 1, 1]


def test_glm130b_blank_is_mask_before_smask_before_gmask() -> None:
    assert positions(7, GMASK, SMASK, MASK, SOP, 10) == [0, 1, 2, 3, 3, 3]
    assert positions(7, GMASK, SMASK, 8, SOP, 10) == [0, 1, 2, 3, 2, 2]
    assert positions(GMASK, 7, 8, 9, SOP, 10) == [0, 1, 2, 3, 4, 5]


def test_glm130b_blank_is_not_moved_by_a_generated_mask() -> None:
    assert positions(7, SMASK, 8, SOP, MASK, 10) == [0, 1, 2, 1, 1, 1]
    assert positions(7, GMASK, SOP, MASK, 10) == [0, 1, 2, 3, 4]


def test_glm130b_padding_shifts_no_position() -> None:
    assert positions(PAD, PAD, 7, SMASK, 8, SOP, 10) == [0, 0, 0, 1, 2, 1, 1]
    assert positions(PAD, PAD, 7, GMASK, SOP, 10) == [0, 0, 0, 1, 2, 3]


# ---- both


@pytest.mark.parametrize(
    ("kinds", "row", "wanted"),
    [
        ((GMASK, MASK), [MASK, GMASK, MASK, GMASK], (1, GMASK)),
        ((MASK, GMASK), [GMASK, MASK, GMASK, MASK], (1, MASK)),
        ((MASK, SMASK, GMASK), [5, GMASK, SMASK, GMASK], (2, SMASK)),
    ],
)
def test_blank_is_the_first_mask_of_the_first_kind_present(
    kinds: Sequence[int], row: Sequence[int], wanted: tuple[int, int]
) -> None:
    place, kind = mask_position(ids(row), kinds)
    assert (place.item(), kind.item()) == wanted


def test_blank_is_looked_for_in_each_row_of_a_batch() -> None:
    place, kind = mask_position(ids([GMASK, 5, MASK], [5, 5, MASK]), (GMASK, MASK))
    assert (place.tolist(), kind.tolist()) == ([0, 2], [GMASK, MASK])


def test_positions_need_a_mask_token_and_a_sop() -> None:
    with pytest.raises(ValueError, match="row 1 of input_ids holds no mask token"):
        derive_position_ids(chatglm_config(), ids([7, MASK, SOP], [7, 8, SOP]))
    with pytest.raises(ValueError, match="row 0 of input_ids holds no <sop>"):
        derive_position_ids(chatglm_config(), ids([7, MASK, 8]))


def test_given_positions_are_continued_row_0_repeats_and_row_1_counts() -> None:
    given = torch.tensor([[[5, 6, 7, 6], [0, 0, 0, 4]]])
    grown = extend_position_ids(chatglm_config(), given, ids([7, MASK, 8, SOP, 10, 11]))
    assert grown[0].tolist() == [[5, 6, 7, 6, 6, 6], [0, 0, 0, 4, 5, 6]]


@pytest.mark.parametrize(("mask_token", "answer"), [(GMASK, [9, 10, 11]), (MASK, [9, 9, 9]), (SMASK, [9, 9, 9])])
def test_given_positions_of_glm130b_are_continued_by_kind(mask_token: int, answer: list[int]) -> None:
    given = torch.tensor([[3, 4, 9]])
    grown = extend_position_ids(glm130b_config(), given, ids([7, mask_token, SOP, 10, 11]))
    assert grown[0].tolist() == [3, 4, *answer]


def test_positions_of_a_model_are_those_of_its_ids() -> None:
    row = [7, MASK, 8, SOP, 10, 11]
    by_hand = torch.tensor([[[0, 1, 2, 1, 1, 1], [0, 0, 0, 1, 2, 3]]])
    model = chatglm()
    torch.testing.assert_close(model(ids(row)).logits, model(ids(row), position_ids=by_hand).logits)
    one_row = torch.tensor([[0, 1, 2, 1, 1, 1]])
    wide = glm130b()
    torch.testing.assert_close(wide(ids(row)).logits, wide(ids(row), position_ids=one_row).logits)
