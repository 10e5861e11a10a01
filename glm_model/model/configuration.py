"""Define the configurations of the two first-generation GLM architectures.

Field names are those of the published ``config.json`` files; the names that transformers uses elsewhere
(``num_hidden_layers``, ``intermediate_size``, ...) read and write the same values through ``attribute_map``.
This module holds sizes and switches and uses no tensors.
"""

import math
from dataclasses import field
from typing import Any, ClassVar, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from ..errors import UnsupportedError
from ..quantization.rules import QUANTIZATION_METHOD
from .split import tensor_parallel_plan

# The largest size that a model of this kind could have; a larger one is a mistake, and could not be built.
_SIZES = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "num_layers": 2**13,
    "num_attention_heads": 2**16,
    "inner_hidden_size": 2**22,
    "max_sequence_length": 2**24,
}
# (above, up to): the values that computations in half precision can use.
_FACTORS = {"layernorm_epsilon": (0.0, 1.0), "deepnorm_alpha": (0.0, 1e4), "initializer_range": (-1e-9, 1e2)}
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id", "smask_token_id")

# Fields that only ChatGLM2-6B and ChatGLM3-6B write; they share the model_type "chatglm" with the first generation.
_SECOND_GENERATION_FIELDS = frozenset(
    {
        "ffn_hidden_size",
        "kv_channels",
        "multi_query_attention",
        "multi_query_group_num",
        "padded_vocab_size",
        "rmsnorm",
    }
)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@strict
class GLMConfig(PreTrainedConfig):
    """Fields that both architectures have; use its subclass :class:`ChatGLMConfig` or :class:`GLM130BConfig`.

    Args:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        num_layers: number of blocks.
        num_attention_heads: attention heads; ``hidden_size`` must divide by them.
        inner_hidden_size: width inside the MLP.
        max_sequence_length: tokens of prompt and answer that the model was trained for.
        layernorm_epsilon: epsilon of every LayerNorm.
        position_encoding_2d: rotate one half of each head with the position in the text and the other half with
            the position inside the blank (ChatGLM-6B); otherwise the whole head with one position (GLM-130B).
        gated_mlp: GeGLU (GLM-130B) instead of GELU (ChatGLM-6B).
        bos_token_id: ``<sop>``, the start of the answer: everything before it is bidirectional context.
        eos_token_id: ``<eop>`` (and, for GLM-130B, ``</s>``).
        mask_token_id, gmask_token_id, smask_token_id: ``[MASK]``, ``[gMASK]``, ``[sMASK]``.
        deepnorm_alpha: the DeepNorm factor of the residual stream (arXiv 2203.00555, GLM-130B paper section 2.2).
            None stands for the value that the original computes; see :attr:`residual_alpha`.
        rotary_dtype: ``"model"`` computes rotary angles in the working dtype as the original does, which in half
            precision rounds the angle itself (by up to 0.5 rad near position 2047); ``"float32"`` does not round.
        quantization_bit: 4 or 8 for packed linear layers, 0 otherwise; see :mod:`glm_model.quantization`.
        quantization_embeddings: the embedding and the head are packed too (the ``-int4-qe`` checkpoint).
        is_demo: True for the small model embedded in this repository, so that front-ends can say so.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]  # Trainer adds a list to it
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "layer_norm_eps": "layernorm_epsilon",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    base_model_pp_plan: ClassVar[dict[str, Any]] = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 150528
    hidden_size: int = 4096
    num_layers: int = 28
    num_attention_heads: int = 32
    inner_hidden_size: int = 16384
    max_sequence_length: int = 2048
    layernorm_epsilon: float = 1e-5
    position_encoding_2d: bool = True
    gated_mlp: bool = False
    use_cache: bool = True
    bos_token_id: int = 150004
    eos_token_id: int | list[int] = 150005
    pad_token_id: int = 20003
    mask_token_id: int = 150000
    gmask_token_id: int = 150001
    smask_token_id: int | None = None
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    deepnorm_alpha: float | int | None = None
    rotary_dtype: Literal["model", "float32"] = "model"
    quantization_bit: Literal[0, 4, 8] | None = 0
    quantization_embeddings: bool = False
    is_demo: bool = False

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """Return the configuration of a published model by its name, with the fields in ``overrides`` replaced.

        Raises:
            ValueError: the name is not one of ``cls.presets``.
        """
        if name not in cls.presets:
            raise ValueError(f"{cls.__name__} has no preset {name!r}; choose one of {sorted(cls.presets)}")
        return cls(**{**cls.presets[name], **overrides})

    def __post_init__(self, **kwargs: Any) -> None:
        """Move a ``quantization_config`` of the published method to the published fields, and finish the construction.

        Those fields alone say how a model is packed. A ``quantization_config`` of another method (bitsandbytes) stays.

        Args:
            kwargs: entries of a config.json that are not fields of this class.
        """
        quantization = kwargs.get("quantization_config")
        if isinstance(quantization, dict) and quantization.get("quant_method") == QUANTIZATION_METHOD:
            del kwargs["quantization_config"]
            self.quantization_bit = quantization.get("bits", 4)
            self.quantization_embeddings = quantization.get("embeddings", False)
        super().__post_init__(**kwargs)

    @property
    def residual_alpha(self) -> float:
        """The DeepNorm factor in use: ``deepnorm_alpha``, or the original's ``sqrt(2 * layers)``."""
        return math.sqrt(2 * self.num_layers) if self.deepnorm_alpha is None else float(self.deepnorm_alpha)

    @property
    def num_position_rows(self) -> int:
        """The rows of ``position_ids``: 2 with block positions, else 1. A head is rotated in as many parts."""
        return 2 if self.position_encoding_2d else 1

    @property
    def embedding_bit(self) -> int | None:
        """The ``quantization_bit`` of the embedding and the head."""
        return self.quantization_bit if self.quantization_embeddings else 0

    @property
    def base_model_tp_plan(self) -> dict[str, str]:
        """The plan by which transformers and :mod:`glm_model.parallel` cut the decoder for tensor parallel ranks."""
        return tensor_parallel_plan(self)

    @base_model_tp_plan.setter
    def base_model_tp_plan(self, plan: dict[str, str]) -> None:
        """Ignore the assignment: transformers 5.17 assigns tied embeddings a style that cannot cut packed weights."""

    @property
    def end_token_ids(self) -> list[int]:
        """The ids that end an answer: ``<eop>`` and, for a model that has it in ``eos_token_id``, ``</s>``."""
        return _listed(self.eos_token_id)

    @property
    def mask_token_priority(self) -> tuple[int, ...]:
        """The ids of the mask tokens; if a text holds several kinds, the first one listed here is the blank to fill."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return self._as_published(super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        return self._as_published(super().to_diff_dict())

    def _as_published(self, content: dict[str, Any]) -> dict[str, Any]:
        """Remove this package's ``quantization_config`` from the fields of a config.json, and return them.

        Other programs read the quantization from the published fields, and fail on a method that they do not know.
        """
        if self.quantization_bit:
            content.pop("quantization_config", None)
        return content

    def validate_architecture(self) -> None:
        """Raise ``ValueError`` naming the field if a value cannot be; part of the validation by ``@strict``."""
        if self.quantization_bit is not None and type(self.quantization_bit) is not int:  # 4.0 equals a literal 4
            raise ValueError(f"quantization_bit must be 0, 4 or 8, not {self.quantization_bit!r}")
        for name, most in _SIZES.items():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, not {getattr(self, name)}")
        for name, (low, high) in _FACTORS.items():
            if (factor := getattr(self, name)) is not None and not low < factor <= high:  # also if it is NaN
                raise ValueError(f"{name} must be above {max(0, low):g} and at most {high:g}, not {factor}")
        for name in _TOKENS:
            value = getattr(self, name)
            if value == [] or any(token is not None and token < 0 for token in _listed(value)):
                raise ValueError(f"{name} must be the id of a token, not {value}")
        for name in ("hidden_size", "inner_hidden_size"):
            if self.quantization_bit == 4 and getattr(self, name) % 2:
                raise ValueError(
                    f"{name} {getattr(self, name)} is odd: with quantization_bit 4 two columns share a byte; use 8"
                )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide by num_attention_heads {self.num_attention_heads}"
            )
        head_dim = self.hidden_size // self.num_attention_heads
        if head_dim % (2 * self.num_position_rows):
            raise ValueError(
                f"a head of {head_dim} (hidden_size / num_attention_heads) cannot be rotated: it must divide by "
                f"{2 * self.num_position_rows} with position_encoding_2d={self.position_encoding_2d}"
            )


@strict
class ChatGLMConfig(GLMConfig):
    """ChatGLM-6B, first generation: 2-D rotary positions, GELU MLP.

    The defaults are the class defaults of the published code (the 150528-row vocabulary), which count whenever a
    ``config.json`` leaves a field out.

    Args:
        pre_seq_len: length of a P-Tuning v2 prefix, None without one.
        prefix_projection: whether the prefix goes through a two-layer MLP.
    """

    model_type = "chatglm"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # THUDM/chatglm-6b since 2023-04-06: image tokens dropped from the vocabulary.
        "chatglm-6b": {
            "vocab_size": 130528,
            "bos_token_id": 130004,
            "eos_token_id": 130005,
            "mask_token_id": 130000,
            "gmask_token_id": 130001,
            "pad_token_id": 3,
            "use_cache": True,
        },
        # THUDM/chatglm-6b before that day: 20000 image tokens come first.
        "chatglm-6b-v0": {"pad_token_id": 20003, "use_cache": True},
        # models/demo of this repository.
        "demo": {
            "vocab_size": 3744,
            "hidden_size": 256,
            "num_layers": 5,
            "num_attention_heads": 8,
            "inner_hidden_size": 1024,
            "max_sequence_length": 1024,
            "deepnorm_alpha": math.sqrt(2 * 5),
            "rotary_dtype": "float32",
            "bos_token_id": 3404,
            "eos_token_id": 3405,
            "mask_token_id": 3400,
            "gmask_token_id": 3401,
            "pad_token_id": 3,
            "use_cache": True,
            "is_demo": True,
        },
    }

    use_cache: bool = False
    pad_token_id: int = 0
    pre_seq_len: int | None = None
    prefix_projection: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if foreign := sorted(_SECOND_GENERATION_FIELDS & kwargs.keys()):
            raise UnsupportedError(
                f"this is a ChatGLM2-6B or ChatGLM3-6B checkpoint (its config.json has {', '.join(foreign)}), a "
                "different architecture under the same model_type 'chatglm'. Load it with transformers and "
                "trust_remote_code, or choose a first-generation ChatGLM-6B folder."
            )
        super().__post_init__(**kwargs)

    @property
    def residual_alpha(self) -> float:
        # The published GLMBlock has num_layers=28 as a default and is never told otherwise.
        return math.sqrt(2 * 28) if self.deepnorm_alpha is None else float(self.deepnorm_alpha)

    @property
    def mask_token_priority(self) -> tuple[int, ...]:
        return (self.gmask_token_id, self.mask_token_id)

    def validate_prefix(self) -> None:
        """Raise ``ValueError`` if ``pre_seq_len`` cannot be; part of the validation by ``@strict``."""
        if not 0 <= (self.pre_seq_len or 0) <= self.max_sequence_length:
            raise ValueError(
                f"pre_seq_len must be the length of a prefix, at most max_sequence_length {self.max_sequence_length}, "
                f"or null; not {self.pre_seq_len}"
            )


@strict
class GLM130BConfig(GLMConfig):
    """GLM-130B: 1-D rotary positions, GeGLU MLP. The defaults are the released model's."""

    model_type = "glm130b"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"glm-130b": {}}

    hidden_size: int = 12288
    num_layers: int = 70
    num_attention_heads: int = 96
    inner_hidden_size: int = 32768
    position_encoding_2d: bool = False
    gated_mlp: bool = True
    # `<eop>`, then `</s>`, which is also appended to a text that does not end in a blank.
    eos_token_id: int | list[int] = field(default_factory=lambda: [150005, 20002])
    smask_token_id: int | None = 150002

    @property
    def mask_token_priority(self) -> tuple[int, ...]:
        candidates = (self.mask_token_id, self.smask_token_id, self.gmask_token_id)
        return tuple(token for token in candidates if token is not None)
