"""What a training sequence holds: spans behind a <sop> each, at the position of their mask, and their targets."""

from glm_model.training.objective import SpecialIds, answer_example, collate, fill_example
from tests.rules.tiny import EOP, GMASK, MASK, PAD, SOP

SPECIAL = SpecialIds(mask=MASK, gmask=GMASK, sop=SOP, eop=EOP, pad=PAD)


def test_training_positions_each_span_stands_at_its_mask_and_counts_from_1() -> None:
    example = fill_example([7, MASK, 8, MASK], [(3, [9, 10]), (1, [11])], SPECIAL)
    assert example.input_ids.tolist() == [7, MASK, 8, MASK, SOP, 9, 10, SOP, 11]
    assert example.position_ids.tolist() == [[0, 1, 2, 3, 3, 3, 3, 1, 1], [0, 0, 0, 0, 1, 2, 3, 1, 2]]


def test_training_targets_are_the_span_and_eop_at_the_place_that_predicts_them() -> None:
    example = fill_example([7, MASK], [(1, [9, 10])], SPECIAL)
    assert example.targets.tolist() == [-100, -100, 9, 10, EOP]


def test_training_answer_is_the_blank_of_gmask_behind_the_prompt() -> None:
    example = answer_example([7, 8], [9], SPECIAL)
    assert example.input_ids.tolist() == [7, 8, GMASK, SOP, 9]
    assert example.position_ids.tolist() == [[0, 1, 2, 2, 2], [0, 0, 0, 1, 2]]
    assert example.targets.tolist() == [-100, -100, -100, 9, EOP]


def test_training_padding_stands_behind_the_answer_and_has_no_target() -> None:
    examples = [answer_example([7], [9], SPECIAL), answer_example([7, 8], [9], SPECIAL)]
    ids, positions, targets = collate(examples, PAD)
    assert ids[0].tolist() == [7, GMASK, SOP, 9, PAD]
    assert positions[0].tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 2, 0]]
    assert targets[0].tolist() == [-100, -100, 9, EOP, -100]
