"""The tokenizer of ChatGLM-6B and GLM-130B for transformers 5, with the published behaviour as its default.

What is peculiar, and kept:

- A sequence ends in `[gMASK] <sop>`; a pair is `first [gMASK] <sop> second <eop>`.
- `tokenizer(...)` adds the prefix-LM mask and two rows of positions only where a length is fixed (padding, truncation).
- Written in text, the five special tokens `<sop> <eop> <unk> <pad> [MASK]` become their ids once a tokenizer comes
  from `from_pretrained`; the white space around them is dropped. `[gMASK]` and all others stay ordinary text.
- Decoding drops spaces before punctuation (`clean_up_tokenization_spaces`), which alters code.

Front-ends use what does not have these edges: `apply_chat_template` and `encode_text`, where no text ever becomes a
control token, and `decode_exact`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AddedToken, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizer
from transformers.utils import PaddingStrategy, to_py_obj

from .chat_format import History, build_prompt, process_response
from .chat_template import CHAT_TEMPLATE, ChatTemplateMixin
from .errors import TokenizerError, UnsupportedError
from .sentencepiece_text import SentencePieceText
from .text_stream import IncrementalDecoder

__all__ = ["ChatGLMTokenizer", "process_response", "register"]

VOCAB_FILE = "ice_text.model"
_CHATGLM2_VOCAB_FILE = "tokenizer.model"


class ChatGLMTokenizer(ChatTemplateMixin, PreTrainedTokenizer):
    """Tokenizer of first-generation GLM, from `ice_text.model`.

    Args:
        vocab_file: path of `ice_text.model`.
        do_lower_case: lower-case text before encoding.
        remove_space: strip text and join its words with single spaces before encoding.
        bos_token, eos_token: `<sop>` and `<eop>`, start and end of an answer.
        end_token: `</s>`, the other end of a text, known to GLM-130B.
        mask_token, gmask_token: `[MASK]`, a blank inside a sentence, and `[gMASK]`, a blank at the end.
        padding_side: only "left": an answer must follow its prompt directly.
        num_image_tokens: ids before the first piece; 20000 unless the tokenizer_config.json says otherwise.

    Raises:
        TokenizerError: `vocab_file` is missing, damaged, of another model, or lacks a control token.
        UnsupportedError: `padding_side` is "right".
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012
    padding_side = "left"
    # The base constructor registers special tokens; here only `from_pretrained` does.
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
        self.vocab_file = str(vocab_file)
        self.do_lower_case = do_lower_case
        self.remove_space = remove_space
        self.sp_tokenizer = SentencePieceText(vocab_file, num_image_tokens)
        # transformers collects every *_token that it does not know; as special tokens they would change decoding.
        named = kwargs.pop("model_specific_special_tokens", None) or {}
        if "eop_token" in named:  # files from before 2023-04-11 name the same two tokens differently
            eos_token, end_token = str(named["eop_token"]), str(eos_token)
        self.gmask_token = str(named.get("gmask_token", gmask_token))
        self.end_token = str(named.get("end_token", end_token))
        kwargs.setdefault("clean_up_tokenization_spaces", True)
        if kwargs.get("chat_template") is None:
            kwargs["chat_template"] = CHAT_TEMPLATE
        kwargs["added_tokens_decoder"] = self._beyond_vocabulary(kwargs.get("added_tokens_decoder") or {})
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
            **kwargs,
        )
        _require_left(self.padding_side)
        self._require_control_tokens()
        self._keep_init_kwargs()
        self._registers_tokens = True

    @classmethod
    def _from_pretrained(
        cls, resolved_vocab_files: dict[str, str | None], pretrained_model_name_or_path: str, *args: Any, **kwargs: Any
    ) -> ChatGLMTokenizer:
        files = {**resolved_vocab_files, "tokenizer_file": None}
        files["vocab_file"] = _own_vocabulary(files.get("vocab_file"), pretrained_model_name_or_path)
        tokenizer: ChatGLMTokenizer = super()._from_pretrained(files, pretrained_model_name_or_path, *args, **kwargs)
        tokenizer._add_tokens([*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder], special_tokens=True)
        return tokenizer

    # ---- the vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of ids without added tokens; the model's embedding may have more rows."""
        return self.sp_tokenizer.num_tokens

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, image tokens included."""
        vocabulary = {self._convert_id_to_token(id_): id_ for id_ in range(self.vocab_size)}
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
        return sorted(self.tokens_trie._tokens)

    def _update_total_vocab_size(self) -> None:
        self.total_vocab_size = self.vocab_size + len(self._added_tokens_decoder)

    def _beyond_vocabulary(self, added: dict[int, AddedToken]) -> dict[int, AddedToken]:
        """Of saved added tokens, those that are no pieces; later writers list pieces there too."""
        return {id_: token for id_, token in added.items() if not self.sp_tokenizer.has_piece(str(token))}

    def _add_tokens(self, new_tokens: Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        """Let tokens be recognised in text; those that are no pieces get the next ids. Returns how many are new."""
        if not self._registers_tokens:
            return 0
        count = 0
        for token in dict.fromkeys(map(str, new_tokens)):
            known = token in self._added_tokens_encoder or self.sp_tokenizer.has_piece(token)
            if not known:
                self._added_tokens_encoder[token] = len(self)
                self._added_tokens_decoder[len(self)] = AddedToken(token, normalized=False, special=special_tokens)
                self._update_total_vocab_size()
                count += 1
            if special_tokens or not known:
                self.tokens_trie.add(token)
        return count

    def _require_control_tokens(self) -> None:
        needed = [self.gmask_token, self.bos_token, self.eos_token, self.mask_token, self.pad_token]
        missing = [token for token in needed if not self.sp_tokenizer.has_piece(token)]
        if missing:
            raise TokenizerError(
                f"{self.vocab_file} has no piece {', '.join(missing)}, so it cannot be used with this model. An "
                "ice_text.model from before 2023-04-06 (2,699,926 bytes) lacks them: take the current one "
                "(2,706,249 bytes) from the checkpoint's repository. If the names are wrong, correct "
                "tokenizer_config.json."
            )

    def _keep_init_kwargs(self) -> None:
        """Let `save_pretrained` write the published fields, without what transformers notes for itself."""
        self.init_kwargs |= {"gmask_token": self.gmask_token, "end_token": self.end_token}
        for private in ("backend", "is_local", "local_files_only"):
            self.init_kwargs.pop(private, None)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the bytes of the `.model` that was read, also if that file is gone by now."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory, prefix + VOCAB_FILE)
        path.write_bytes(self.sp_tokenizer.serialized())
        return (str(path),)

    # ---- text to ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text` and nothing else: no special token is recognised in it and none is added."""
        return self.sp_tokenizer.encode(self._preprocess(text))

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Tokens of `text`; special and added tokens in it are recognised and lose the white space around them."""
        if kwargs.get("split_special_tokens", self.split_special_tokens):
            return self._tokenize(text)
        parts = self.tokens_trie.split(text)
        tokens: list[str] = []
        for index, part in enumerate(parts):
            if part in self.tokens_trie._tokens:
                tokens.append(part)
                continue
            # Text parts alternate with recognised tokens, so any neighbour is one.
            part = part.lstrip() if index else part
            part = part.rstrip() if index + 1 < len(parts) else part
            tokens += self._tokenize(part)
        return tokens

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.sp_tokenizer.tokenize(self._preprocess(text)) if text else []

    def _preprocess(self, text: str) -> str:
        if self.remove_space:
            text = " ".join(text.split())
        return text.lower() if self.do_lower_case else text

    def _convert_token_to_id(self, token: str) -> int:
        return self.sp_tokenizer.token_to_id(token)

    def build_prompt(self, query: str, history: History | None = None) -> str:
        """The prompt of the published `chat()` for a query after (question, answer) pairs."""
        return build_prompt(query, history)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`first [gMASK] <sop>`, or `first [gMASK] <sop> second <eop>`."""
        prompt = [*token_ids_0, self.gmask_token_id, self.bos_token_id]
        return prompt if token_ids_1 is None else [*prompt, *token_ids_1, self.eos_token_id]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for each token that `build_inputs_with_special_tokens` adds, 0 for the others."""
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, already_has_special_tokens=True)
        mask = [0] * len(token_ids_0) + [1, 1]
        return mask if token_ids_1 is None else mask + [0] * len(token_ids_1) + [1]

    # ---- masks, positions and padding

    def _pad(
        self,
        encoded_inputs: dict[str, Any],
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> dict[str, Any]:
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
        if return_attention_mask is not False:
            encoded_inputs.setdefault("attention_mask", self._attention_mask(ids))
        encoded_inputs.setdefault("position_ids", self._position_ids(ids))
        if padding_strategy != PaddingStrategy.DO_NOT_PAD and len(ids) < max_length:
            self._pad_left(encoded_inputs, max_length - len(ids))
        return encoded_inputs

    def _pad_left(self, inputs: dict[str, Any], length: int) -> None:
        inputs["input_ids"] = [self.pad_token_id] * length + inputs["input_ids"]
        inputs["position_ids"] = np.pad(inputs["position_ids"], [(0, 0), (length, 0)])
        if "attention_mask" in inputs:
            padding = [(0, 0), (length, 0), (length, 0)]
            inputs["attention_mask"] = np.pad(inputs["attention_mask"], padding, constant_values=True)
        if "token_type_ids" in inputs:
            inputs["token_type_ids"] = [self.pad_token_type_id] * length + inputs["token_type_ids"]
        if "special_tokens_mask" in inputs:
            inputs["special_tokens_mask"] = [1] * length + inputs["special_tokens_mask"]

    def _attention_mask(self, ids: list[int]) -> np.ndarray:
        """Bool [1, S, S], True where a row may not look: after itself, except into the context."""
        mask = ~np.tri(len(ids), dtype=bool)
        mask[:, : self._context_length(ids)] = False
        return mask[None]

    def _position_ids(self, ids: list[int]) -> np.ndarray:
        """Int64 [2, S]: positions in the context, then that of the blank; and the count from `<sop>` on."""
        context = self._context_length(ids)
        positions = np.zeros((2, len(ids)), dtype=np.int64)
        positions[0] = np.arange(len(ids))
        positions[1, context:] = np.arange(1, len(ids) - context + 1)
        # Where both masks occur, this counts from [MASK]; the model, left to itself, from [gMASK].
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
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        ids = [id_ for id_ in ids if id_ != self.pad_token_id]
        tokens = self.convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens)
        text = (" " if spaces_between_special_tokens else "").join(self._texts_and_added_tokens(tokens))
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def _texts_and_added_tokens(self, tokens: list[str]) -> Iterable[str]:
        for is_added, run in groupby(tokens, self._added_tokens_encoder.__contains__):
            if is_added:
                yield from run
            else:
                yield self.convert_tokens_to_string(list(run))

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """Decode each sequence; ids that are not in sequences are decoded one by one, as in transformers 4."""
        return [self.decode(sequence, **kwargs) for sequence in sequences]

    def decode_exact(self, token_ids: Any) -> str:
        """The text of ids [S] for front-ends: no clean-up of spaces, and only pieces that are white space become so.

        Equal to `decode(ids, clean_up_tokenization_spaces=False)` but where ordinary pieces happen to spell `<n>`.
        """
        ids = to_py_obj(token_ids)
        decoder = IncrementalDecoder(self)
        return decoder.push([ids] if isinstance(ids, int) else ids) + decoder.finish()

    @property
    def dropped_leading_spaces(self) -> float:
        """See `text_stream.TokenSurfaces`."""
        return self.sp_tokenizer.dropped_leading_spaces

    def surface(self, token_id: int) -> str | bytes | None:
        """See `text_stream.TokenSurfaces`."""
        if token_id == self.pad_token_id:
            return None
        if token_id in self._added_tokens_decoder:
            return str(self._added_tokens_decoder[token_id])
        return self.sp_tokenizer.surface(token_id)



def _own_vocabulary(vocab_file: str | None, folder: str | Path) -> str:
    """The `ice_text.model` to read; transformers offers any other SentencePiece file it finds beside or instead."""
    if vocab_file is not None and Path(vocab_file).name != _CHATGLM2_VOCAB_FILE:
        return vocab_file
    if (own := Path(folder, VOCAB_FILE)).is_file():
        return str(own)
    if vocab_file is not None:
        raise TokenizerError(
            f"{folder} holds a {_CHATGLM2_VOCAB_FILE} and no {VOCAB_FILE}: it is the tokenizer of ChatGLM2, ChatGLM3 or "
            "a later model, which is another architecture. Load it with the code made for that model; this package "
            "runs ChatGLM-6B and GLM-130B."
        )
    raise TokenizerError(
        f"{folder} holds no {VOCAB_FILE}, the vocabulary of ChatGLM-6B and GLM-130B. "
        "Copy it there from the checkpoint's repository."
    )


def _require_left(padding_side: str) -> None:
    if padding_side != "left":
        raise UnsupportedError(
            f"padding_side={padding_side!r}: GLM pads on the left only, because an answer follows its prompt directly."
        )


class _TokenizerName(PreTrainedConfig):
    """No model: the key under which transformers files the tokenizer's class name."""

    model_type = "glm_tokenizer_name"


def register() -> None:
    """Let `AutoTokenizer` know `ChatGLMTokenizer` by name, so that it wins over a checkpoint's `auto_map`.

    Not under `ChatGLMConfig`: transformers prefers remote code (`trust_remote_code=True`) over a tokenizer that is
    registered for the checkpoint's configuration, but not over one it knows by the name in tokenizer_config.json.
    """
    AutoTokenizer.register(_TokenizerName, tokenizer_class=ChatGLMTokenizer, exist_ok=True)
