"""The loss: each token is predicted by the one before it, -100 does not count, all others of the batch count alike."""

import math

import torch
from torch import Tensor

from tests.rules import tiny
from tests.rules.tiny import GMASK, SOP, ids

ROWS = ids([7, GMASK, SOP, 9, 10, 25], [8, GMASK, SOP, 11, 12, 25])
LABELS = ids([-100, -100, -100, 9, 10, 25], [-100, -100, -100, -100, -100, 25])


def surprise(logits: Tensor, token: int) -> float:
    """Minus the log-probability of a token by scores [vocabulary]."""
    return math.log(sum(math.exp(score) for score in logits.tolist())) - float(logits[token])


def test_loss_is_shifted_a_token_is_predicted_at_the_place_before_it() -> None:
    output = tiny.chatglm()(ROWS[:1], labels=ids([-100, -100, -100, -100, 10, -100]))
    torch.testing.assert_close(output.loss, torch.tensor(surprise(output.logits[0, 3], 10)), atol=1e-4, rtol=0)


def test_loss_of_minus_100_is_not_taken() -> None:
    model = tiny.chatglm()
    labels = ids([-100, -100, -100, 9, -100, -100])
    output = model(ROWS[:1], labels=labels)
    torch.testing.assert_close(output.loss, torch.tensor(surprise(output.logits[0, 2], 9)), atol=1e-4, rtol=0)


def test_loss_is_the_mean_over_all_counted_tokens_of_the_batch() -> None:
    """Not the mean of the rows' means: here three tokens of one row and one of the other."""
    for model in (tiny.chatglm(), tiny.glm130b()):
        output = model(ROWS, labels=LABELS)
        logits = output.logits
        total = sum(surprise(logits[0, place], int(ROWS[0, place + 1])) for place in (2, 3, 4))
        total += surprise(logits[1, 4], 25)
        torch.testing.assert_close(output.loss, torch.tensor(total / 4), atol=1e-4, rtol=0)


def test_loss_is_computed_in_float32_and_given_in_the_working_dtype() -> None:
    output = tiny.chatglm().half()(ROWS, labels=LABELS)
    assert output.loss.dtype == torch.float16
    logits = output.logits.double()
    total = sum(surprise(logits[0, place], int(ROWS[0, place + 1])) for place in (2, 3, 4))
    total += surprise(logits[1, 4], 25)
    assert float(output.loss) == float(torch.tensor(total / 4).half())
