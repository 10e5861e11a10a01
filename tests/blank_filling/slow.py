"""Blank filling once more, slow and plain, from the rules alone: whole sequences each time, no cache, no batches.

It shares nothing with the package; a language model is a function from ids to the scores of the next token.
"""

import math
from collections.abc import Callable, Sequence
from heapq import nlargest

import torch
from torch import Tensor

Ids = list[int]
NextScores = Callable[[Ids], Tensor]


def greedy(next_scores: NextScores, prompt: Ids, ends: Sequence[int], limit: int) -> Ids:
    """The answer without its end token."""
    answer: Ids = []
    while len(prompt) + len(answer) < limit:
        token = int(next_scores(prompt + answer).argmax())
        if token in ends:
            break
        answer.append(token)
    return answer


def beam_search(
    next_scores: NextScores,
    prompt: Ids,
    beams: int,
    ends: Sequence[int],
    limit: int,
    length_penalty: float = 1.0,
    ngram: int = 0,
    least: int = 0,
) -> list[tuple[float, Ids]]:
    """Answers with their end tokens and penalised scores, best first."""

    def penalised(total: float, answer: Ids) -> float:
        return float(total) / math.pow((5 + len(prompt) + len(answer)) / 6, length_penalty)

    running: list[tuple[float, Ids]] = [(0.0, [])]
    finished: list[tuple[float, Ids]] = []
    for _ in range(limit - len(prompt)):
        children = [
            (total + step, [*answer, token])
            for total, answer in running
            for token, step in enumerate(steps(next_scores, prompt, answer, ends, ngram, least))
        ]
        running = []
        for total, answer in nlargest((max(1, len(ends)) + 1) * beams, children, key=lambda child: child[0]):
            if answer[-1] in ends:
                finished.append((penalised(total, answer), answer))
            elif len(running) == beams:
                break
            else:
                running.append((total, answer))
        finished = sorted(finished, key=lambda beam: -beam[0])[:beams]
        best_running = max(penalised(total, answer) for total, answer in running)
        if len(finished) == beams and finished[-1][0] >= best_running:
            return finished
    unfinished = [(penalised(total, answer), answer) for total, answer in running]
    return sorted(finished + unfinished, key=lambda beam: -beam[0])[:beams]


def steps(
    next_scores: NextScores, prompt: Ids, answer: Ids, ends: Sequence[int], ngram: int, least: int
) -> list[float]:
    """Log-probability of every next token, with those that may not come far below all others."""
    scores = next_scores(prompt + answer).double().clone()
    if len(answer) < least:
        scores[list(ends)] = -65504
    scores[sorted(repeating(prompt, answer, ngram))] = -65504
    return scores.log_softmax(-1).tolist()


def repeating(prompt: Ids, answer: Ids, ngram: int) -> set[int]:
    """Tokens that would end an n-gram written before; it counts as written if its last token is in the answer."""
    if ngram < 2:
        return set()
    whole = prompt + answer
    written = {tuple(whole[end - ngram : end]) for end in range(max(len(prompt) + 1, ngram), len(whole) + 1)}
    return {gram[-1] for gram in written if list(gram[:-1]) == whole[1 - ngram :]}


def filter_scores(scores: Sequence[float], top_k: int, top_p: float) -> list[float]:
    """Top-k, then top-p over what is left; what goes becomes -65504."""
    kept = list(scores)
    if top_k:
        least = sorted(scores)[-top_k]
        kept = [score if score >= least else -65504.0 for score in kept]
    if top_p:
        weights = [math.exp(score - max(kept)) for score in kept]
        mass = 0.0
        for place in sorted(range(len(kept)), key=lambda i: -kept[i]):
            if mass > top_p:
                kept[place] = -65504.0
            mass += weights[place] / sum(weights)
    return kept


def score(next_scores: NextScores, prompt: Ids, answer: Ids) -> float:
    """Log-probability of an answer."""
    return sum(
        float(next_scores(prompt + answer[:place]).double().log_softmax(-1)[token])
        for place, token in enumerate(answer)
    )


def fill(
    answer_of: Callable[[Ids, int], list[Ids]], ids: Ids, kind: int, sop: int, most: int
) -> tuple[list[Ids], list[Ids]]:
    """Every blank of one kind, left to right.

    Args:
        answer_of: the answers, best first, to a prompt and the index of its blank.
        ids: the text, ready but for its <sop>.

    Returns:
        The filled texts, best first, and the prompts.
    """
    texts = [ids]
    prompts: list[Ids] = []
    while kind in texts[0] and len(prompts) < most:
        text = texts[0]
        blank = text.index(kind)
        prompts.append([*text, sop])
        texts = [text[:blank] + answer + text[blank + 1 :] for answer in answer_of(prompts[-1], blank)]
    return texts, prompts


def scores_of_whole_passes(model: torch.nn.Module, prompt_length: int, positions: Tensor) -> NextScores:
    """A model as a function: one pass over everything each time, all seeing the context, the rest causal."""

    @torch.no_grad()
    def next_scores(ids: Ids) -> Tensor:
        masked = torch.ones(len(ids), len(ids)).triu(1).bool()
        masked[:, : prompt_length - 1] = False
        output = model(
            torch.tensor([ids]),
            attention_mask=masked[None, None],
            position_ids=positions[None, ..., : len(ids)],
            use_cache=False,
        )
        return output.logits[0, -1]

    return next_scores
