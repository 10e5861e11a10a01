"""Define the GLM decoder: ChatGLM-6B and GLM-130B are one model with two switches.

The switches are ``config.position_encoding_2d`` (rotary positions in two rows or one) and ``config.gated_mlp`` (GeGLU
or GELU). Inner names are the library's (``model.embed_tokens``, ``model.layers``, ``model.norm``, ``lm_head``);
published key names are mapped in ``glm_model.checkpoint.keys``. Hidden states are [batch, length, hidden] throughout.

This module holds the stack of layers: attention is in ``attention``, the block in ``layers``, masks and positions come
from ``masking`` and ``positions``. Loading, generation, quantization and parallelism, which users of transformers
expect of a model besides its forward pass, are added in ``glm_model.modeling_glm``.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..errors import UnsupportedError
from ..kernels import dispatch
from ..quantization.linear import QuantizedWeight, make_embedding, make_linear
from ..quantization.rules import TIED_SCALE
from .attention import GLMAttention, attention_kernels
from .attention_mask import LayerMask, attention_mask_of_pass
from .configuration import ChatGLMConfig, GLMConfig
from .kv_cache import GrowingCache, new_cache
from .layers import GLMDecoderLayer
from .norm import GLMLayerNorm
from .positions import derive_position_ids, prompt_position_ids, require_position_per_token
from .prefix import PrefixEncoder
from .rotary import GLMRotaryEmbedding
from .row_cache import RowCache, RowCaches
from .runtime import Runtime
from .slot_cache import SlotStep
from .transformers_names import (
    CACHE,
    OLD_CACHE,
    cache_of,
    one_cache,
    output_with_cache,
    refuse_arguments,
    refuse_packed_samples,
)

FastStep = Callable[
    [nn.ModuleList, GLMConfig, Tensor, tuple[Tensor, Tensor], LayerMask, Cache | None],
    Tensor | None,
]
"""A function that may compute all layers for one new token per sequence in one call: (layers, config, embeddings,
cosines and sines, mask, cache) -> hidden states, or None if the layers have to be called one by one."""

_fast_step: FastStep | None = None


def register_fast_step(step: FastStep) -> None:
    """Let all decoders try ``step`` before they call their layers."""
    global _fast_step
    _fast_step = step


class GLMPreTrainedModel(PreTrainedModel):
    """Base of all GLM modules with weights: the attributes that transformers reads, and the initialization."""

    config: GLMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("GLMDecoderLayer",)
    _skip_keys_device_placement = (CACHE, OLD_CACHE)
    # The published fp16 files hold LayerNorm in float32; `.half()` rounds it as it did in the original. A P-Tuning
    # prefix is trained in float32 over a half model.
    _keep_in_fp32_modules_strict = ("input_layernorm", "post_attention_layernorm", "norm", "prefix_encoder")
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": GLMDecoderLayer, "attentions": GLMAttention}  # noqa: RUF012

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.runtime = Runtime()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QuantizedWeight):
            module.initialize(self.config.initializer_range)
        elif isinstance(module, GLMRotaryEmbedding):
            init.copy_(module.inv_freq, module.inverse_frequencies())

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, *args: object, **kwargs: object
    ) -> str:
        if attn_implementation is not None and ("flash" in attn_implementation or "paged" in attn_implementation):
            raise UnsupportedError(
                f"attn_implementation={attn_implementation!r} cannot hold GLM's mask, whose context is bidirectional; "
                "use 'sdpa' (the default), 'eager' or 'flex_attention'."
            )
        return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)


class GLMModel(GLMPreTrainedModel):
    """The decoder without its head."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.embed_tokens = make_embedding(config.embedding_bit, config.vocab_size, config.hidden_size)
        self.rotary_emb = GLMRotaryEmbedding(config)
        self.layers = nn.ModuleList(GLMDecoderLayer(config, index) for index in range(config.num_layers))
        self.norm = GLMLayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        if isinstance(config, ChatGLMConfig) and config.pre_seq_len:
            # P-Tuning trains the prefix alone.
            self.requires_grad_(False)
            self.prefix_encoder = PrefixEncoder(config, config.pre_seq_len)
        self.gradient_checkpointing = False
        self.post_init()

    @property
    def prefix(self) -> PrefixEncoder | None:
        """The module ``prefix_encoder``, or None if the model has no P-Tuning prefix."""
        encoder: PrefixEncoder | None = self._modules.get("prefix_encoder")
        return encoder

    @property
    def activation_dtype(self) -> torch.dtype:
        """The dtype of hidden states, keys and values. A packed model has it in its biases alone."""
        dtype: torch.dtype = self._own_layers[0].self_attn.query_key_value.bias.dtype
        return dtype

    @property
    def _own_layers(self) -> list[Any]:
        """The layers of this stage; those of other stages have no attention here."""
        return [layer for layer in self.layers if hasattr(layer, "self_attn")]

    def __getattr__(self, name: str) -> Any:
        if name == "prefix_encoder" and name not in self._modules:  # the fine-tuning script reaches for it
            raise AttributeError(
                "this model has no P-Tuning prefix: load it with from_pretrained(..., pre_seq_len=LENGTH) for a new "
                "one, or put a trained one on it with glm_model.load_prefix(model, FOLDER)"
            )
        return super().__getattr__(name)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,
        **kwargs: object,
    ) -> BaseModelOutputWithPast:
        """Return the hidden states [batch, length, hidden] of a prompt, or of new tokens after a cached one.

        Args:
            input_ids: [batch, length], padded in front. Masks and positions follow from them: the context ends at
                the first ``<sop>``, the blank is the first mask token of ``config.mask_token_priority``.
            attention_mask: None; or 0/1 [batch, cached + length], 0 for padding; or the original tokenizer's bool
                [batch, 1, length, cached + length] where **True means masked**; or an additive float mask of that
                shape.
            position_ids: None, or [batch, 2, length] ([batch, length] for GLM-130B). Required with ``inputs_embeds``
                and when ``cache`` already holds the prompt.
            cache: keys and values of the tokens so far; new ones are added in place.
            past_key_values: the name of ``cache`` in transformers before 5.24.

        Raises:
            ValueError: neither or both of ids and embeddings; a prompt without mask token or ``<sop>``; positions
                missing where they cannot be derived.
            TypeError: an argument that the model does not know.
            UnsupportedError: an argument that the model cannot follow; several samples in one row.
        """
        refuse_arguments(kwargs)
        cache = one_cache(cache, past_key_values)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and cache is None:
            cache = new_cache(inputs_embeds.device)
        is_prompt = cache is None or cache.get_seq_length() == 0
        if position_ids is not None:
            refuse_packed_samples(position_ids, attention_mask)
        else:
            position_ids = prompt_position_ids(self.config, input_ids, attention_mask, is_prompt)
        require_position_per_token(self.config, position_ids, inputs_embeds.shape[1])
        if self.prefix is not None and self.config._attn_implementation == "flex_attention":
            raise UnsupportedError("flex_attention takes no P-Tuning prefix; use 'sdpa' or 'eager'")
        mask = self.mask_of_pass(input_ids, inputs_embeds, attention_mask, cache, is_prompt)
        hidden_states = self._run_layers(
            inputs_embeds, self.rotary_emb(position_ids, inputs_embeds.dtype), mask, cache, kwargs
        )
        return output_with_cache(BaseModelOutputWithPast, cache, last_hidden_state=self.norm(hidden_states))

    def mask_of_pass(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        cache: Cache | None,
        is_prompt: bool,
    ) -> LayerMask:
        """Return the mask that the layers take; see :func:`.attention_mask.attention_mask_of_pass`."""
        return attention_mask_of_pass(self.config, input_ids, inputs_embeds, attention_mask, cache, is_prompt)

    def context_layers(self, input_ids: Tensor, position_ids: Tensor, cache: RowCache) -> Iterator[None]:
        """Write the keys and values of a context into an empty cache, layer by layer; yield after each layer.

        The tokens see each other in both directions. ``<sop>``, which a context must not see, is not among them.
        Between two layers other passes can run, so that a long context does not hold them up.

        Args:
            input_ids: the context, LongTensor [1, length].
            position_ids: its positions, [1, 2, length] or (GLM-130B) [1, length].
            cache: the cache of the row.
        """
        hidden_states = self.embed_tokens(input_ids)
        position_embeddings = self.rotary_emb(position_ids, hidden_states.dtype)
        layers = self._own_layers
        cache.expect(len(layers))
        if self.prefix is not None:
            prefix = self.prefix(hidden_states.dtype, 1)
            for layer in layers:
                own = 2 * layer.self_attn.layer_idx
                cache.update(prefix[own], prefix[own + 1], layer.self_attn.cache_idx)
        for layer in layers:
            with attention_kernels(hidden_states):
                hidden_states = layer(
                    hidden_states, position_embeddings=position_embeddings, attention_mask=None, cache=cache
                )
            yield
        self.norm(hidden_states)  # which sends them on, if this is a stage of a pipeline

    def _run_layers(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        mask: LayerMask,
        cache: Cache | None,
        kwargs: dict[str, object],
    ) -> Tensor:
        """Return the output of the last layer, [batch, length, hidden], for embeddings of the same shape."""
        prefix = None
        # The caches of single rows hold the prefix.
        if (encoder := self.prefix) is not None and not isinstance(cache, RowCache | RowCaches | SlotStep):
            prefix = encoder(hidden_states.dtype, len(hidden_states))
            if isinstance(mask, Tensor):
                mask = F.pad(mask, (prefix.shape[-2], 0), value=mask.dtype == torch.bool)
        elif _fast_step is not None:
            step = _fast_step(self.layers, self.config, hidden_states, position_embeddings, mask, cache)
            if step is not None:
                return step
        if isinstance(cache, GrowingCache | RowCache) and cache.get_seq_length() == 0:
            cache.expect(len(self._own_layers))
        is_packed_step = self.config.quantization_bit and hidden_states.shape[1] == 1
        products = dispatch.decoding(hidden_states) if is_packed_step else nullcontext()
        with products, attention_kernels(hidden_states):
            for layer in self.layers:
                hidden_states = layer(
                    hidden_states,
                    position_embeddings=position_embeddings,
                    attention_mask=mask,
                    cache=cache,
                    prefix=prefix,
                    **kwargs,
                )
        return hidden_states


class GLMForCausalLM(GLMPreTrainedModel):
    """The decoder with its head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012
    decoder_class: type[GLMModel] = GLMModel

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.model = self.decoder_class(config)
        self.model.runtime = self.runtime
        self.vocab_size = config.vocab_size
        self.lm_head = make_linear(config.embedding_bit, config.hidden_size, config.vocab_size, bias=False)
        if config.embedding_bit:
            self._tied_weights_keys = self._tied_weights_keys | TIED_SCALE
        if self.model.prefix is not None:
            self.lm_head.requires_grad_(False)
        self.post_init()

    def derive_position_ids(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, length: int | None = None
    ) -> Tensor:
        """Return the positions of whole sequences of ids; see :func:`.positions.derive_position_ids`."""
        return derive_position_ids(self.config, input_ids, attention_mask, length)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Cache | None = None,
        **kwargs: object,
    ) -> CausalLMOutputWithPast:
        """Return logits [batch, length or ``logits_to_keep``, vocab]; arguments as in :meth:`GLMModel.forward`.

        Args:
            labels: [batch, length], -100 where no loss is taken; shifted by one here. The loss is the mean over all
                counted tokens of the batch, computed in float32 and rounded to the dtype of the hidden states.
            logits_to_keep: the last so many positions, or their indices; 0 for all.
        """
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
            loss = loss.to(outputs.last_hidden_state.dtype)
        return output_with_cache(
            CausalLMOutputWithPast,
            cache_of(outputs),
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
