"""Beam search that scores as transformers 4.27 did, under which the published results were made.

transformers 5 divides a beam's log-probability by the length of the answer; 4.27 divided it by the length of prompt
and answer, an end token not counted. With a length penalty other than 0 that ranks beams differently. Source:
``BeamSearchScorer`` and ``BeamHypotheses`` of transformers 4.27.1.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.generation import GenerationMixin


class PublishedBeamScoresMixin(GenerationMixin):
    """Two hooks of ``generate``'s beam search."""

    def _update_finished_beams(
        self,
        *,
        topk_running_sequences: Tensor,
        topk_log_probs: Tensor,
        next_token_hits_stopping_criteria: Tensor,
        top_num_beam_mask: Tensor,
        num_beams: int,
        cur_len: int,
        decoder_prompt_len: int,
        length_penalty: float,
        **state: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Candidates are [batch, candidates]; ``cur_len`` counts the tokens before the new one."""
        ended = next_token_hits_stopping_criteria
        is_last_step = cur_len + 1 == topk_running_sequences.shape[-1]
        if is_last_step:
            end_tokens = torch.tensor(self._end_tokens(), device=ended.device)
            ended = torch.isin(topk_running_sequences[:, :, cur_len], end_tokens)
        # An ended beam counts if it is among the best; at the last step, so do the best that did not end.
        finished = ended & top_num_beam_mask
        if is_last_step:
            finished |= ~ended & ((~ended).cumsum(dim=-1) <= num_beams)
        length = cur_len + (~ended).to(topk_log_probs.dtype)
        answer_length = cur_len + 1 - decoder_prompt_len  # what transformers is about to divide by
        return super()._update_finished_beams(
            topk_running_sequences=topk_running_sequences,
            topk_log_probs=topk_log_probs * (answer_length / length) ** length_penalty,
            next_token_hits_stopping_criteria=finished,
            top_num_beam_mask=torch.ones_like(top_num_beam_mask),
            num_beams=num_beams,
            cur_len=cur_len,
            decoder_prompt_len=decoder_prompt_len,
            length_penalty=length_penalty,
            **state,
        )

    @staticmethod
    def _check_early_stop_heuristic(*, decoder_prompt_len: int, **state: Any) -> Tensor:
        # Called when the new token counts already; 4.27 took the length before it.
        return GenerationMixin._check_early_stop_heuristic(decoder_prompt_len=1, **state)

    def _end_tokens(self) -> list[int]:
        end_tokens = self.generation_config.eos_token_id
        return list(end_tokens) if isinstance(end_tokens, list) else [end_tokens]
