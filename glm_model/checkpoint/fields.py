"""Check the fields of a checkpoint's JSON files that transformers takes without looking at them.

Each table lists fields with the values that they may have; null stands for a default and is always allowed. Fields that
are in no table are not used, and the fields of the model itself are checked by its configuration class.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError


class _Rule(NamedTuple):
    """What a field may be, in words and as a test."""

    words: str
    allows: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(low: int, high: int) -> _Rule:
    return _Rule(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _between(low: float, high: float) -> _Rule:
    return _Rule(f"a number from {low:g} to {high:g}", lambda value: _is_number(value) and low <= value <= high)


def _one_of(*texts: str) -> _Rule:
    return _Rule(f"one of {', '.join(texts)}", lambda value: value in texts)


def _is_token(value: object) -> bool:
    """Return whether a value is a token, or an object that describes one."""
    if isinstance(value, dict):
        flags = (part for name, part in value.items() if name not in ("content", "__type"))
        return isinstance(value.get("content"), str) and all(isinstance(flag, bool) for flag in flags)
    return isinstance(value, str)


def _are(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_code(value: object) -> bool:
    """Return whether a value is an ``auto_map``: names of classes, or for a tokenizer a pair of them."""
    if isinstance(value, list):
        return all(name is None or isinstance(name, str) for name in value)
    return isinstance(value, dict) and all(isinstance(name, str) or _is_code(name) for name in value.values())


_COUNT = _whole(0, 2**31 - 1)
_SHARE = _between(0, 1)
_FACTOR = _between(-1e6, 1e6)
_SWITCH = _Rule("true or false", lambda value: isinstance(value, bool))
_TEXT = _Rule("a text", _is_text)
_ID = _Rule("the id of a token", _is_id)
_IDS = _Rule(
    "the id of a token, or a list of such ids", lambda value: _is_id(value) or (value != [] and _are(_is_id)(value))
)
_TOKEN = _Rule("a token", _is_token)
_OBJECT = _Rule("an object", lambda value: isinstance(value, dict))
_TEXTS = _Rule("a list of texts", _are(_is_text))
_CODE = _Rule("an object with names of classes", _is_code)

GENERATION: Mapping[str, _Rule] = {
    **dict.fromkeys(("max_length", "max_new_tokens", "num_beams", "num_return_sequences"), _whole(1, 2**31 - 1)),
    **dict.fromkeys(
        (
            *("min_length", "min_new_tokens", "top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
            *("num_beam_groups", "num_assistant_tokens", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
            *(
                "assistant_early_exit",
                "assistant_lookbehind",
                "target_lookbehind",
                "prefill_chunk_size",
                "max_cache_len",
            ),
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        ("top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "assistant_confidence_threshold"),
        _SHARE,
    ),
    **dict.fromkeys(("temperature", "max_time", "repetition_penalty", "encoder_repetition_penalty"), _between(0, 1e6)),
    **dict.fromkeys(("length_penalty", "penalty_alpha", "diversity_penalty", "guidance_scale"), _FACTOR),
    **dict.fromkeys(
        (
            *("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values", "token_healing", "low_memory"),
            *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "disable_compile"),
            *("return_dict_in_generate", "is_assistant", "use_mtp"),
        ),
        _SWITCH,
    ),
    **dict.fromkeys(("bos_token_id", "pad_token_id", "forced_bos_token_id"), _ID),
    **dict.fromkeys(("eos_token_id", "forced_eos_token_id", "decoder_start_token_id"), _IDS),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _Rule("a list of ids", _are(_is_id))),
    **dict.fromkeys(("bad_words_ids", "force_words_ids"), _Rule("lists of ids", _are(_are(_is_id)))),
    **dict.fromkeys(("cache_implementation", "transformers_version", "num_assistant_tokens_schedule"), _TEXT),
    **dict.fromkeys(("cache_config", "compile_config", "watermarking_config"), _OBJECT),
    "stop_strings": _Rule("a text, or a list of texts", lambda value: _is_text(value) or _are(_is_text)(value)),
    "exponential_decay_length_penalty": _Rule(
        "a list of two numbers",
        lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)),
    ),
    "sequence_bias": _Rule("a list or an object", lambda value: isinstance(value, list | dict) and len(value) > 0),
    "early_stopping": _Rule("true, false or 'never'", lambda value: isinstance(value, bool) or value == "never"),
}

CONFIGURATION: Mapping[str, _Rule] = {
    **{name: rule for name, rule in GENERATION.items() if not name.endswith("_token_id")},
    "auto_map": _CODE,
    "architectures": _TEXTS,
    "return_dict": _Rule("true", lambda value: value is True),  # generation needs names, not tuples
    "quantization_config": _OBJECT,
    # transformers makes a name for each label, and imports or asserts what the others say.
    "num_labels": _whole(0, 100_000),
    "id2label": _Rule(
        "an object of texts by numbers",
        lambda value: (
            isinstance(value, dict) and all(name.isdecimal() for name in value) and _are(_is_text)([*value.values()])
        ),
    ),
    "label2id": _Rule(
        "an object of numbers", lambda value: isinstance(value, dict) and _are(_is_id)([*value.values()])
    ),
    "layer_types": _TEXTS,
    "pruned_heads": _OBJECT,
    **dict.fromkeys(("rope_scaling", "rope_parameters", "task_specific_params"), _OBJECT),
    **dict.fromkeys(
        ("torchscript", "is_decoder", "is_encoder_decoder", "cross_attention_hidden_size"),
        _Rule("false", lambda value: not value),
    ),
    **dict.fromkeys(("model_type", "name_or_path"), _TEXT),
    **dict.fromkeys(("torch_dtype", "dtype"), _one_of("float16", "bfloat16", "float32", "float64", "auto")),
    **dict.fromkeys(("attn_implementation", "_attn_implementation"), _one_of("sdpa", "eager", "flex_attention")),
    **dict.fromkeys(("num_hidden_layers", "intermediate_size", "max_position_embeddings"), _whole(1, 2**24)),
    "layer_norm_eps": _SHARE,
}

TOKENIZER: Mapping[str, _Rule] = {
    **dict.fromkeys(("model_max_length", "max_len"), _between(1, 1e31)),
    "num_image_tokens": _whole(0, 1_000_000),
    **dict.fromkeys(
        (
            *("do_lower_case", "remove_space", "clean_up_tokenization_spaces", "split_special_tokens", "use_fast"),
            *("add_prefix_space", "add_bos_token", "add_eos_token", "legacy"),
        ),
        _SWITCH,
    ),
    **dict.fromkeys(
        (
            *("bos_token", "eos_token", "end_token", "eop_token", "mask_token", "gmask_token", "pad_token"),
            *("unk_token", "sep_token", "cls_token"),
        ),
        _TOKEN,
    ),
    "padding_side": _Rule("'left' or 'right'", lambda value: value in ("left", "right")),
    "truncation_side": _Rule("'left' or 'right'", lambda value: value in ("left", "right")),
    **dict.fromkeys(("tokenizer_class", "name_or_path", "processor_class", "vocab_file"), _TEXT),
    "auto_map": _CODE,
    "init_inputs": _Rule("an empty list", lambda value: value == []),
    "model_input_names": _TEXTS,
    "chat_template": _Rule(
        "a text, or several by name",
        lambda value: (
            _is_text(value)
            or (isinstance(value, dict) and all(map(_is_text, value.values())))
            or _are(lambda one: isinstance(one, dict) and _is_text(one.get("name")) and _is_text(one.get("template")))(
                value
            )
        ),
    ),
    **dict.fromkeys(
        ("additional_special_tokens", "extra_special_tokens"),
        _Rule(
            "a list of tokens, or tokens by name",
            lambda value: _are(_is_token)(value) or (isinstance(value, dict) and all(map(_is_token, value.values()))),
        ),
    ),
    "added_tokens_decoder": _Rule(
        "an object of tokens by their ids",
        lambda value: (
            isinstance(value, dict)
            and all(name.isascii() and name.isdecimal() and len(name) < 10 for name in value)
            and all(isinstance(token, dict) and _is_token(token) for token in value.values())
        ),
    ),
}


def require_fields(source: Path, fields: Mapping[str, Any], rules: Mapping[str, _Rule]) -> None:
    """Raise CheckpointError, naming file, field and value, if a field is something that its rule does not allow."""
    for name, rule in rules.items():
        value = fields.get(name)
        if value is not None and not rule.allows(value):
            raise CheckpointError(f"{source}: {name} is {_shown(value)}; it must be {rule.words}.")


def require_ids(source: Path, fields: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless every value is the id of a token, as in added_tokens.json."""
    for name, value in fields.items():
        if not _is_id(value):
            raise CheckpointError(f"{source}: {name[:100]!r} is {_shown(value)}; it must be {_ID.words}.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
