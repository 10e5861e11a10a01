"""Define the tokenizer of ChatGLM-6B and GLM-130B for transformers 5, with the published behaviour as its default.

Peculiarities of the original that are kept:

- A sequence ends in `[gMASK] <sop>`; a pair is `first [gMASK] <sop> second <eop>`.
- `tokenizer(...)` adds the prefix-LM mask and two rows of positions only where a length is fixed (by padding or
  truncation).
- Written in text, the five special tokens `<sop> <eop> <unk> <pad> [MASK]` become their ids once a tokenizer comes
  from `from_pretrained`, and the white space around them is dropped. All others stay ordinary text.
- Decoding drops spaces before punctuation (`clean_up_tokenization_spaces`), which alters code.

Front-ends use methods without these peculiarities: `apply_chat_template` and `encode_text`, in which no text ever
becomes a control token, and `decode_exact`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AddedToken, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizer
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy, to_py_obj

from ..errors import GLMError, TokenizerError, UnsupportedError
from .chat_format import History, build_prompt, process_response
from .chat_template import CHAT_TEMPLATE, ChatTemplateMixin
from .incremental_decoder import IncrementalDecoder
from .sentencepiece_text import SentencePieceText
from .vocabulary_file import VOCAB_FILE, find_vocabulary, require_pieces

__all__ = ["ChatGLMTokenizer", "process_response", "register"]


class ChatGLMTokenizer(ChatTemplateMixin, PreTrainedTokenizer):
    """Tokenizer of first-generation GLM, from `ice_text.model`.

    Args:
        vocab_file: path of `ice_text.model`.
        do_lower_case: lower-case text before encoding.
        remove_space: strip text and join its words with single spaces before encoding.
        bos_token, eos_token: `<sop>` and `<eop>`, start and end of an answer.
        end_token: `</s>`, the end of a text for GLM-130B.
        mask_token, gmask_token: `[MASK]`, a blank inside a text, and `[gMASK]`, a blank at its end.
        padding_side: only "left", because an answer follows its prompt directly.
        num_image_tokens: ids before the first piece.

    Raises:
        TokenizerError: the vocabulary is missing, damaged, of another model, or lacks a control token.
        UnsupportedError: `padding_side` is "right".
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012
    padding_side = "left"
    # The constructor of the base registers special tokens; here only `from_pretrained` does.
    _registers_tokens = False

    def __init__(
        self,
        vocab_file: str | Path,
        do_lower_case: bool = False,
        remove_space: bool = False,
        bos_token: str = "<sop>",
        eos_token: str = "<eop>",
        end_token: str = "</s>",
        mask_token: str = "[MASK]",
        gmask_token: str = "[gMASK]",
        padding_side: str = "left",
        pad_token: str = "<pad>",
        unk_token: str = "<unk>",
        num_image_tokens: int = 20000,
        **kwargs: Any,
    ) -> None:
        _require_left(padding_side)
        if type(num_image_tokens) is not int:
            raise TokenizerError(f"num_image_tokens must be a number such as 0 or 20000, not {num_image_tokens!r}")
        self.vocab_file = str(vocab_file)
        self.do_lower_case = do_lower_case
        self.remove_space = remove_space
        self.sp_tokenizer = SentencePieceText(vocab_file, num_image_tokens)
        # transformers takes every *_token it does not know for special, which would change what decoding skips.
        named = kwargs.pop("model_specific_special_tokens", None) or {}
        if eop_token := kwargs.pop("eop_token", named.get("eop_token")):
            # Files from before 2023-04-11 name the two ends differently.
            eos_token, end_token = eop_token, eos_token
        self.gmask_token = str(named.get("gmask_token", gmask_token))
        self.end_token = str(named.get("end_token", end_token))
        added = self._beyond_vocabulary(kwargs.pop("added_tokens_decoder", None) or {})
        needed = [str(token) for token in (self.gmask_token, bos_token, eos_token, mask_token)]
        own = [token for token in needed if token not in map(str, added.values())]
        require_pieces(self.sp_tokenizer.processor, own, vocab_file)
        kwargs.setdefault("clean_up_tokenization_spaces", True)
        kwargs["chat_template"] = kwargs.get("chat_template") or CHAT_TEMPLATE
        super().__init__(
            do_lower_case=do_lower_case,
            remove_space=remove_space,
            padding_side=padding_side,
            bos_token=bos_token,
            eos_token=eos_token,
            mask_token=mask_token,
            pad_token=pad_token,
            unk_token=unk_token,
            num_image_tokens=num_image_tokens,
            added_tokens_decoder=added,
            **kwargs,
        )
        self._tidy_init_kwargs()
        self._recognised_tokens: set[str] = set()
        self._registers_tokens = True

    def _tidy_init_kwargs(self) -> None:
        """Let `save_pretrained` write the published fields, and nothing that transformers noted for itself."""
        self.init_kwargs |= {"gmask_token": self.gmask_token, "end_token": self.end_token}
        for private in ("backend", "is_local", "local_files_only"):
            self.init_kwargs.pop(private, None)

    @classmethod
    def _from_pretrained(
        cls, resolved_vocab_files: dict[str, str | None], folder: str, *args: Any, **kwargs: Any
    ) -> ChatGLMTokenizer:
        files = {**resolved_vocab_files, "tokenizer_file": None}
        files["vocab_file"] = find_vocabulary(folder, files.get("vocab_file"))
        try:
            tokenizer: ChatGLMTokenizer = super()._from_pretrained(files, folder, *args, **kwargs)
        except GLMError as error:
            if str(folder) in str(error):
                raise
            raise type(error)(f"the tokenizer of {folder}: {error}") from error
        known = [*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder]
        tokenizer._add_tokens(known, special_tokens=True)
        return tokenizer

    # ---- the vocabulary

    @property
    def vocab_size(self) -> int:
        """The number of ids without added tokens; the model's embedding may have more rows."""
        return self.sp_tokenizer.num_tokens

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token, image tokens included."""
        vocabulary = {self._convert_id_to_token(token_id): token_id for token_id in range(self.vocab_size)}
        return vocabulary | self.added_tokens_encoder

    @property
    def gmask_token_id(self) -> int:
        return self.sp_tokenizer.token_to_id(self.gmask_token)

    @property
    def end_token_id(self) -> int:
        return self.sp_tokenizer.token_to_id(self.end_token)

    @property
    def unique_no_split_tokens(self) -> list[str]:
        """The tokens that are recognised in text, sorted."""
        return sorted(self._recognised_tokens)

    def _beyond_vocabulary(self, added: dict[int, AddedToken]) -> dict[int, AddedToken]:
        """Return the saved added tokens without pieces, which some versions of transformers list there too."""
        return {token_id: token for token_id, token in added.items() if not self._is_piece(str(token))}

    def _is_piece(self, token: str) -> bool:
        return self.sp_tokenizer.has_piece(token)

    def _add_tokens(self, new_tokens: Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        """Register tokens to be recognised in text; those that are no pieces get the next ids.

        Returns:
            The number of new tokens.
        """
        if not self._registers_tokens:
            return 0
        count_before = len(self)
        for token in map(str, new_tokens):
            known = token in self._added_tokens_encoder or self._is_piece(token)
            if not known:
                added = AddedToken(token, normalized=False, special=special_tokens)
                self._added_tokens_encoder[token] = len(self)
                self._added_tokens_decoder[len(self)] = added
                self._update_total_vocab_size()
            if special_tokens or not known:
                self._recognised_tokens.add(token)
                self.tokens_trie.add(token)
        return len(self) - count_before

    def _update_total_vocab_size(self) -> None:
        self.total_vocab_size = self.vocab_size + len(self._added_tokens_decoder)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the `.model` that was read, also if its file is gone by now."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory, prefix + VOCAB_FILE)
        path.write_bytes(self.sp_tokenizer.serialized())
        return (str(path),)

    # ---- text to ids

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of `text`; no special token is recognised in it and none is added."""
        return self.sp_tokenizer.encode(self._preprocess(text))

    def tokenize(self, text: str, *args: Any, **kwargs: Any) -> list[str]:
        """Return the tokens of `text`; special and added tokens are recognised, without the white space around them."""
        if kwargs.get("split_special_tokens", self.split_special_tokens):
            return self._tokenize(text)
        parts = self.tokens_trie.split(text)
        tokens: list[str] = []
        for index, part in enumerate(parts):
            if part in self._recognised_tokens:
                tokens.append(part)
                continue
            # No two texts are neighbours: whatever stands beside this one is a recognised token.
            part = part.lstrip() if index > 0 else part
            part = part.rstrip() if index + 1 < len(parts) else part
            tokens += self._tokenize(part)
        return tokens

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.sp_tokenizer.tokenize(self._preprocess(text))

    def _preprocess(self, text: str) -> str:
        if self.remove_space:
            text = " ".join(text.split())
        return text.lower() if self.do_lower_case else text

    def _convert_token_to_id(self, token: str) -> int:
        return self.sp_tokenizer.token_to_id(token)

    def build_prompt(self, query: str, history: History | None = None) -> str:
        """Return the prompt of the published `chat()` for a query after (question, answer) pairs.

        Raises:
            TokenizerError: the query is no text, or the history is something else than pairs of texts.
        """
        return build_prompt(query, history)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return `first [gMASK] <sop>` or `first [gMASK] <sop> second <eop>`."""
        prompt = [*token_ids_0, self.gmask_token_id, self.bos_token_id]
        return prompt if token_ids_1 is None else [*prompt, *token_ids_1, self.eos_token_id]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for each token that `build_inputs_with_special_tokens` adds, and 0 for the others."""
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, already_has_special_tokens=True)
        mask = [0] * len(token_ids_0) + [1, 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), 1]

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: str | TruncationStrategy = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Truncate sequences as transformers 4.27 did, with which ChatGLM-6B was published.

        A text that is cut alone stays whole if nothing of it would remain, and an empty second text still gets its
        `<eop>`.
        """
        strategy = TruncationStrategy(truncation_strategy)
        cut = pair_ids if strategy == TruncationStrategy.ONLY_SECOND else ids
        alone = pair_ids is None or strategy != TruncationStrategy.LONGEST_FIRST
        if alone and len(cut or []) <= num_tokens_to_remove:
            return ids, pair_ids, []
        ids, second, overflowing = super().truncate_sequences(ids, pair_ids, num_tokens_to_remove, strategy, stride)
        return ids, second if pair_ids is None else second or [], overflowing

    def _encode_plus(self, *args: Any, return_offsets_mapping: bool = False, **kwargs: Any) -> Any:
        if return_offsets_mapping:  # transformers would ignore it
            raise UnsupportedError(
                "return_offsets_mapping: this tokenizer normalizes text before it cuts it, and does not know where a "
                "token stood. Leave it out, and use decode_exact(ids) for the text of tokens."
            )
        return super()._encode_plus(*args, **kwargs)

    # ---- masks, positions, padding

    def pad(self, encoded_inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Pad encoded inputs as transformers does, and also masks that are arrays, which it would leave unpadded."""
        if isinstance(encoded_inputs, (list, tuple)) and encoded_inputs:
            encoded_inputs = {key: [one[key] for one in encoded_inputs] for key in encoded_inputs[0]}
        masks = encoded_inputs.get("attention_mask") if encoded_inputs else None
        if isinstance(masks, list) and any(isinstance(mask, np.ndarray) for mask in masks):
            encoded_inputs = {**encoded_inputs, "attention_mask": [np.asarray(mask).tolist() for mask in masks]}
        return super().pad(encoded_inputs, *args, **kwargs)

    def _pad(
        self,
        encoded_inputs: Any,
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> Any:
        """Add mask and positions where a length is fixed, and pad on the left.

        Padding is masked in rows and columns; positions count from the first real token.
        """
        _require_left(padding_side or self.padding_side)
        ids = encoded_inputs["input_ids"]
        if padding_strategy == PaddingStrategy.LONGEST:
            max_length = len(ids)
        if max_length is None:
            return encoded_inputs
        if pad_to_multiple_of:
            max_length = -(-max_length // pad_to_multiple_of) * pad_to_multiple_of
        length = max(0, max_length - len(ids)) if padding_strategy != PaddingStrategy.DO_NOT_PAD else 0
        encoded_inputs["input_ids"] = [self.pad_token_id] * length + ids
        positions = encoded_inputs.get("position_ids", self._position_ids(ids))
        encoded_inputs["position_ids"] = np.pad(positions, [(0, 0), (length, 0)])
        if return_attention_mask is not False:
            mask = encoded_inputs.get("attention_mask", self._attention_mask(ids))
            encoded_inputs["attention_mask"] = np.pad(mask, [(0, 0), (length, 0), (length, 0)], constant_values=True)
        for name, filler in (("token_type_ids", self.pad_token_type_id), ("special_tokens_mask", 1)):
            if name in encoded_inputs:
                encoded_inputs[name] = [filler] * length + encoded_inputs[name]
        return encoded_inputs

    def _attention_mask(self, ids: list[int]) -> NDArray[np.bool_]:
        """Return the mask, bool [1, S, S], True = masked: columns after the row's own that are not in the context."""
        mask = ~np.tri(len(ids), dtype=bool)
        mask[:, : self._context_length(ids)] = False
        return mask[None]

    def _position_ids(self, ids: list[int]) -> NDArray[np.int64]:
        """Return the two rows of positions, int64 [2, S].

        Row 0 counts through the context and then stays at the blank; row 1 is 0 in the context and counts from 1 at
        `<sop>`.
        """
        context = self._context_length(ids)
        positions = np.zeros((2, len(ids)), dtype=np.int64)
        positions[0] = np.arange(len(ids))
        positions[1, context:] = np.arange(1, len(ids) - context + 1)
        # If both occur, the tokenizer uses [MASK]; the model, if it derives positions itself, uses [gMASK].
        blank = self.mask_token_id if self.mask_token_id in ids else self.gmask_token_id
        if blank in ids:
            positions[0, context:] = ids.index(blank)
        return positions

    def _context_length(self, ids: list[int]) -> int:
        return ids.index(self.bos_token_id) if self.bos_token_id in ids else len(ids)

    # ---- ids to text

    def _convert_id_to_token(self, index: int) -> str:
        return self.sp_tokenizer.id_to_token(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.sp_tokenizer.decode_tokens(tokens)

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
        **kwargs: Any,
    ) -> str:
        pad = self.pad_token_id
        ids = [token_id for token_id in ([token_ids] if isinstance(token_ids, int) else token_ids) if token_id != pad]
        tokens = self.convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens)
        text = (" " if spaces_between_special_tokens else "").join(self._runs(tokens))
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def _runs(self, tokens: list[str]) -> Iterable[str]:
        """Yield each added token, and the text of the pieces between two of them."""
        for is_added, run in groupby(tokens, self._added_tokens_encoder.__contains__):
            run_tokens = list(run)
            yield from run_tokens if is_added else [self.convert_tokens_to_string(run_tokens)]

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Return the text of each sequence; if `sequences` holds single ids, decode each, as in transformers 4."""
        return [str(self.decode(sequence, *args, **kwargs)) for sequence in sequences]

    def decode_exact(self, token_ids: Any) -> str:
        """Return the text of ids [S] for front-ends, without the clean-up of spaces.

        It is that of `decode(ids, clean_up_tokenization_spaces=False)`, except that only white-space pieces become
        white space: `decode` also turns ordinary pieces that together spell `<n>` into a line break.
        """
        ids = to_py_obj(token_ids)
        decoder = IncrementalDecoder(self)
        return decoder.push([ids] if isinstance(ids, int) else ids) + decoder.finish()

    @property
    def dropped_leading_spaces(self) -> float:
        """The number of space symbols dropped at the start of a text; see `incremental_decoder.TokenSurfaces`."""
        return self.sp_tokenizer.dropped_leading_spaces

    def surface(self, token_id: int) -> str | bytes:
        """Return the content of an id; see `incremental_decoder.TokenSurfaces`."""
        if token_id in self._added_tokens_decoder:
            return str(self._added_tokens_decoder[token_id])
        return self.sp_tokenizer.surface(token_id)


def _require_left(padding_side: str) -> None:
    if padding_side != "left":
        raise UnsupportedError(
            f"padding_side={padding_side!r}: GLM pads on the left only, as an answer follows its prompt directly."
        )


class _TokenizerName(PreTrainedConfig):
    """Key under which transformers registers the name of the tokenizer; no model's configuration."""

    model_type = "glm_tokenizer_name"


def register() -> None:
    """Let `AutoTokenizer` find `ChatGLMTokenizer` by the name that is in tokenizer_config.json.

    Not under `ChatGLMConfig`: with `trust_remote_code=True` transformers prefers a checkpoint's own code to a
    tokenizer that is registered for the configuration, but not to one it knows by name.
    """
    AutoTokenizer.register(_TokenizerName, tokenizer_class=ChatGLMTokenizer, exist_ok=True)
