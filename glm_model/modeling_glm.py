"""Assemble the public models from the network and the capabilities that users of transformers expect of a model.

The network is :mod:`glm_model.model`, which imports none of the others. They are added here and nowhere else:

- ``ChatMixin``: the published ``chat`` and ``stream_chat`` (only ChatGLM-6B);
- ``PrefixLMGeneration``: transformers' ``generate``; ``PublishedBeamScores``: the scores of its beam search;
- ``ModelParallel``: parts of a model on several ranks;
- ``CheckedLoading``: ``from_pretrained`` that refuses damaged files;
- ``PublishedNames``: ``load_state_dict`` that understands published names;
- ``QuantizableModel``: the published ``quantize``, and dtypes of a packed model.
"""

from typing import Any

from .checkpoint.keys import IGNORED_KEYS
from .checkpoint.reading import CheckedLoading
from .checkpoint.state_dicts import PublishedNames
from .generation.chat import ChatMixin
from .generation.transformers_hooks import PrefixLMGeneration
from .model.attention import GLMAttention
from .model.configuration import ChatGLMConfig, GLM130BConfig, GLMConfig
from .model.decoder import GLMForCausalLM, GLMModel, GLMPreTrainedModel
from .model.layers import GLMMLP, GLMDecoderLayer
from .model.norm import GLMLayerNorm
from .model.rotary import GLMRotaryEmbedding
from .optional_parts import import_present, optional_class
from .quantization.quantizable import QuantizableModel

__all__ = [
    "GLMMLP",
    "ChatGLMForCausalLM",
    "ChatGLMModel",
    "GLM130BForCausalLM",
    "GLM130BModel",
    "GLMAttention",
    "GLMDecoderLayer",
    "GLMForCausalLM",
    "GLMLayerNorm",
    "GLMModel",
    "GLMPreTrainedModel",
    "GLMRotaryEmbedding",
]


# Optional parts of the package: each is registered here and imported nowhere else.
import_present(
    "glm_model",
    [
        "model.native_rows",
        "model.native_step",
        "generation.cuda_graphs",
        "generation.slot_rows",
        "generation.prompt_lookup",
    ],
)
PublishedBeamScores: Any = optional_class("glm_model.generation.published_beams", "PublishedBeamScores")
ModelParallel: Any = optional_class("glm_model.parallel.distribute", "ModelParallel")


class _Model(CheckedLoading, PublishedNames, ModelParallel, QuantizableModel):
    """Base of all public models: loading, parallelism and quantization.

    Args:
        config: the configuration.
        empty_init: an argument of the published constructor, ignored: weights that no file holds are always
            initialized, and all others never.
    """

    def __init__(self, config: GLMConfig, empty_init: bool = True) -> None:
        super().__init__(config)

    _keys_to_ignore_on_load_unexpected: tuple[str, ...] = (IGNORED_KEYS,)
    # If the prefix is missing, `tensor_checks` logs a sentence; transformers need not list it too.
    _keys_to_ignore_on_load_missing = (r"(^|\.)prefix_encoder\.",)


class _DecoderAlone(_Model):
    """Base of the models without a head, which ignore the head in a checkpoint."""

    _keys_to_ignore_on_load_unexpected = (IGNORED_KEYS, r"^lm_head\.weight(_scale)?$")


class ChatGLMModel(_DecoderAlone, GLMModel):
    """ChatGLM-6B's decoder without its head."""

    config: ChatGLMConfig
    config_class = ChatGLMConfig


class ChatGLMForCausalLM(ChatMixin, PublishedBeamScores, PrefixLMGeneration, _Model, GLMForCausalLM):
    """ChatGLM-6B: the published ``ChatGLMForConditionalGeneration``.

    Saved under this name because other software takes the published one for ChatGLM2.
    """

    config: ChatGLMConfig
    config_class = ChatGLMConfig
    decoder_class = ChatGLMModel

    @property
    def transformer(self) -> GLMModel:
        """The decoder by its published name; the fine-tuning script reaches ``transformer.prefix_encoder``."""
        return self.model


class GLM130BModel(_DecoderAlone, GLMModel):
    """GLM-130B's decoder without its head."""

    config: GLM130BConfig
    config_class = GLM130BConfig


class GLM130BForCausalLM(PublishedBeamScores, PrefixLMGeneration, _Model, GLMForCausalLM):
    """GLM-130B."""

    config: GLM130BConfig
    config_class = GLM130BConfig
    decoder_class = GLM130BModel
