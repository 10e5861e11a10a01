"""Score beams as transformers 4.27 did, with which the published results were made.

transformers 5 divides a beam's log-probability by the length of the answer; 4.27 divided it by the length of prompt
and answer, an end token not counted. With a length penalty other than 0 that ranks beams differently. Source:
``BeamSearchScorer`` and ``BeamHypotheses`` of transformers 4.27.1.
"""

from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers.generation import GenerationConfig, GenerationMixin

_END_TOKENS: ContextVar[Tensor] = ContextVar("end tokens of the beam search that is running")


class PublishedBeamScores(GenerationMixin):
    """Overrides of methods that ``generate`` calls in its beam search."""

    def _beam_search(self, input_ids: Tensor, *args: Any, generation_config: GenerationConfig, **kwargs: Any) -> Any:
        end_tokens = generation_config._eos_token_tensor
        token = _END_TOKENS.set(input_ids.new_empty(0) if end_tokens is None else end_tokens.to(input_ids.device))
        try:
            return super()._beam_search(input_ids, *args, generation_config=generation_config, **kwargs)
        finally:
            _END_TOKENS.reset(token)

    def _update_finished_beams(
        self,
        *,
        sequences: Tensor,
        beam_scores: Tensor,
        beam_indices: Tensor,
        is_sent_finished: Tensor,
        topk_running_sequences: Tensor,
        topk_log_probs: Tensor,
        next_token_hits_stopping_criteria: Tensor,
        top_num_beam_mask: Tensor,
        is_early_stop_heuristic_unsatisfied: Tensor,
        num_beams: int,
        cur_len: int,
        decoder_prompt_len: int,
        length_penalty: float,
        early_stopping: bool | str,
        **state: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move candidates that have ended to the finished beams, with the scores of transformers 4.27.

        Candidates are [batch, candidates], the best first; ``cur_len`` counts the tokens before the new one. Sequences,
        scores, indices and flags of the finished beams, updated, are returned.
        """
        ended = next_token_hits_stopping_criteria
        is_last_step = bool(ended.all())
        if is_last_step:
            ended = torch.isin(topk_running_sequences[:, :, cur_len], _END_TOKENS.get())
        length = cur_len + (~ended).to(topk_log_probs.dtype)
        answer_length = cur_len + 1 - decoder_prompt_len  # what transformers is about to divide by
        update = super()._update_finished_beams

        def finish(which: Tensor, *beams: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            names = ("sequences", "beam_scores", "beam_indices", "is_sent_finished")
            return update(
                **dict(zip(names, beams, strict=True)),
                topk_running_sequences=topk_running_sequences,
                topk_log_probs=topk_log_probs * (answer_length / length) ** length_penalty,
                next_token_hits_stopping_criteria=which,
                top_num_beam_mask=torch.ones_like(top_num_beam_mask),
                is_early_stop_heuristic_unsatisfied=is_early_stop_heuristic_unsatisfied,
                num_beams=num_beams,
                cur_len=cur_len,
                decoder_prompt_len=decoder_prompt_len,
                length_penalty=length_penalty,
                early_stopping=early_stopping,
                **state,
            )

        # A candidate that has ended counts only if it is among the first ``num_beams``.
        beams = finish(ended & top_num_beam_mask, sequences, beam_scores, beam_indices, is_sent_finished)
        # A prompt is done when all its beams have finished and the best candidate, ended or not, would be no better
        # than the worst of them. The flag is changed in place, because transformers decides this in
        # `_check_early_stop_heuristic`, which is not given the candidates.
        if early_stopping == "never" and length_penalty > 0:
            best_length = torch.tensor(topk_running_sequences.shape[-1])
        else:  # 4.27 adds one token to the length for this prompt and for each unfinished prompt before it in the batch
            best_length = cur_len + is_early_stop_heuristic_unsatisfied[:, 0].long().cumsum(dim=0)
        is_beaten = beams[1].amin(dim=-1) >= topk_log_probs.amax(dim=-1) / best_length**length_penalty
        is_done = beams[3].all(dim=-1) & (is_beaten | (early_stopping is True))
        is_early_stop_heuristic_unsatisfied &= ~is_done[:, None]
        if is_last_step:  # for a prompt that is not done, the best candidates that have not ended count too
            beams = finish(~ended & ((~ended).cumsum(dim=-1) <= num_beams), *beams)
        return beams

    @staticmethod
    def _check_early_stop_heuristic(*, is_early_stop_heuristic_unsatisfied: Tensor, **state: object) -> Tensor:
        # `_update_finished_beams` has already updated the flags.
        return is_early_stop_heuristic_unsatisfied
