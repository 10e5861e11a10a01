"""A tokenizer that spells ids as numbers: `7 8` is [7, 8]. It stands in where a rule is about ids."""

from collections.abc import Sequence
from typing import Any

from transformers import BatchEncoding

from tests.rules import tiny


class NumberTokenizer:
    """What `chat`, `stream_text` and `fill_blanks` need of a tokenizer."""

    pad_token_id = tiny.PAD
    dropped_leading_spaces = 1
    added_tokens_decoder: dict[int, str] = {}  # noqa: RUF012

    def build_prompt(self, query: str, history: Any = None) -> str:
        return query

    def __call__(self, texts: Sequence[str], **kwargs: Any) -> BatchEncoding:
        """The published prompt: text, [gMASK], <sop>."""
        rows = [[*self.encode_text(text), tiny.GMASK, tiny.SOP] for text in texts]
        return BatchEncoding({"input_ids": tiny.ids(*rows)})

    def encode_text(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def surface(self, token_id: int) -> str:
        return "" if token_id == tiny.EOP else f"▁{token_id}"

    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str:
        return "".join(self.surface(token_id) for token_id in token_ids).replace("▁", " ")[1:]

    def decode_exact(self, token_ids: Sequence[int]) -> str:
        return self.decode(token_ids)
