"""The public models: the network, and what users of transformers expect of a model besides its forward pass.

The network is :mod:`glm_model.model`, which knows nothing of the rest. What is put on top of it, here and nowhere else:

- ``ChatMixin``: the published ``chat`` and ``stream_chat`` (ChatGLM-6B alone);
- ``PrefixLMGeneration``: transformers' ``generate``, and ``PublishedBeamScores``: how its beams are ranked;
- ``ModelParallel``: parts of a model on several ranks;
- ``CheckedLoading``: ``from_pretrained`` that refuses damaged files;
- ``QuantizableModel``: the published ``quantize``, and dtypes of a packed model.
"""

from typing import Any

from .checkpoint.keys import IGNORED_KEYS
from .checkpoint.reading import CheckedLoading
from .generation.chat import ChatMixin
from .generation.transformers_hooks import PrefixLMGeneration
from .model.attention import GLMAttention
from .model.configuration import ChatGLMConfig, GLM130BConfig
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


# What the package can do without is named here and imported nowhere else.
import_present("glm_model", ["model.native_step", "generation.cuda_graphs", "generation.prompt_lookup"])
PublishedBeamScores: Any = optional_class("glm_model.generation.published_beams", "PublishedBeamScores")
ModelParallel: Any = optional_class("glm_model.parallel.distribute", "ModelParallel")


class _Model(CheckedLoading, ModelParallel, QuantizableModel):
    """What every public model has."""

    _keys_to_ignore_on_load_unexpected: tuple[str, ...] = (IGNORED_KEYS,)
    # Said in a sentence of our own where it is missing; transformers need not put it in a table.
    _keys_to_ignore_on_load_missing = (r"(^|\.)prefix_encoder\.",)


class _DecoderAlone(_Model):
    """A model without a head; checkpoints hold one all the same."""

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
