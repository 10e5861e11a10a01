"""The GLM decoder: ChatGLM-6B and GLM-130B are one model with two switches.

The switches are ``config.position_encoding_2d`` (rotary positions in two rows or one) and ``config.gated_mlp`` (GeGLU
or GELU). Inner names are the library's (``model.embed_tokens``, ``model.layers``, ``model.norm``, ``lm_head``);
published key names are mapped in ``glm_model.checkpoint.keys``. Hidden states are [batch, length, hidden] throughout.

This module knows the stack: attention is in ``attention``, the block in ``layers``, masks and positions come from
``masking`` and ``positions``. What users of transformers expect of a model besides its forward pass (loading,
generation, quantization, parallelism) is put on top in ``glm_model.modeling_glm``.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..errors import UnsupportedError
from ..kernels import dispatch
from ..quantization.linear import QuantizedWeight, make_embedding, make_linear
from ..quantization.rules import TIED_SCALE
from . import masking, native_step
from .attention import GLMAttention, attention_kernels
from .configuration import ChatGLMConfig, GLMConfig
from .kv_cache import RoomyCache, new_cache
from .layers import GLMDecoderLayer
from .norm import GLMLayerNorm
from .positions import count_padding, derive_position_ids
from .prefix import PrefixEncoder
from .rotary import GLMRotaryEmbedding
from .rounding import attention_in_use


class GLMPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of both architectures."""

    config: GLMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("GLMDecoderLayer",)
    _skip_keys_device_placement = ("past_key_values",)
    # The published fp16 files hold LayerNorm in float32; `.half()` rounds it as it did in the original. A P-Tuning
    # prefix is trained in float32 over a half model.
    _keep_in_fp32_modules_strict = ("input_layernorm", "post_attention_layernorm", "norm", "prefix_encoder")
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": GLMDecoderLayer, "attentions": GLMAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QuantizedWeight):
            module.initialize(self.config.initializer_range)
        elif isinstance(module, GLMRotaryEmbedding):
            init.copy_(module.inv_freq, module.inverse_frequencies())

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
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
        self.prefix_encoder: PrefixEncoder | None = None
        if isinstance(config, ChatGLMConfig) and config.pre_seq_len:
            # P-Tuning trains the prefix alone.
            self.requires_grad_(False)
            self.prefix_encoder = PrefixEncoder(config, config.pre_seq_len)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of a prompt, or of new tokens after a cached one.

        Args:
            input_ids: [batch, length], padded in front. Masks and positions follow from them: the context ends at
                the first ``<sop>``, the blank is the first mask token of ``config.mask_token_priority``.
            attention_mask: None; or 0/1 [batch, cached + length], 0 for padding; or the original tokenizer's bool
                [batch, 1, length, cached + length] where **True means masked**; or an additive float mask of that
                shape.
            position_ids: None, or [batch, 2, length] ([batch, length] for GLM-130B). Required with ``inputs_embeds``
                and when ``past_key_values`` already holds the prompt.

        Raises:
            ValueError: neither or both of ids and embeddings; a prompt without mask token or ``<sop>``; positions
                missing where they cannot be derived.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = new_cache(inputs_embeds.device)
        is_prompt = past_key_values is None or past_key_values.get_seq_length() == 0
        if position_ids is None:
            position_ids = self._prompt_positions(input_ids, attention_mask, is_prompt)
        _require_one_per_token(self.config, position_ids, inputs_embeds.shape[1])
        mask = self._attention_mask(input_ids, inputs_embeds, attention_mask, past_key_values, is_prompt)
        prefix = self._prefix(past_key_values, inputs_embeds, is_prompt)
        if prefix is not None and mask is not None:
            mask = F.pad(mask, (prefix.shape[-2], 0), value=mask.dtype == torch.bool)

        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(position_ids, hidden_states.dtype)
        arguments = (hidden_states, position_embeddings, mask, past_key_values)
        step = native_step.decode(self.layers, self.config, *arguments) if prefix is None else None
        if step is not None:
            return BaseModelOutputWithPast(last_hidden_state=self.norm(step), past_key_values=past_key_values)
        is_packed_step = self.config.quantization_bit and hidden_states.shape[1] == 1
        products = dispatch.decoding(hidden_states) if is_packed_step else nullcontext()
        # The cache's type first: a StaticCache's is_prompt is a tensor, on which a compiled step cannot branch.
        if isinstance(past_key_values, RoomyCache) and is_prompt:
            past_key_values.expect(sum(hasattr(layer, "self_attn") for layer in self.layers))
        with products, attention_kernels(hidden_states):
            for layer in self.layers:
                hidden_states = layer(
                    hidden_states,
                    position_embeddings=position_embeddings,
                    attention_mask=mask,
                    past_key_values=past_key_values,
                    prefix=prefix,
                    **kwargs,
                )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _prompt_positions(self, input_ids: Tensor | None, attention_mask: Tensor | None, is_prompt: bool) -> Tensor:
        if input_ids is None or not is_prompt:
            raise ValueError(
                "position_ids cannot be derived from "
                + ("inputs_embeds" if input_ids is None else "new tokens alone when the prompt is in the cache")
                + "; pass them (model.derive_position_ids(all ids so far) computes them), or use generate()"
            )
        return derive_position_ids(self.config, input_ids, attention_mask)

    def _attention_mask(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        is_prompt: bool,
    ) -> Any:
        """The mask in the form of the attention implementation; None where every token sees every key."""
        if self.prefix_encoder is not None and self.config._attn_implementation == "flex_attention":
            raise UnsupportedError("flex_attention takes no P-Tuning prefix; use 'sdpa' or 'eager'")
        if attention_mask is not None and attention_mask.ndim not in (2, 4):
            raise ValueError(
                f"attention_mask has shape {list(attention_mask.shape)}; it must be [batch, keys], 0 for padding, or "
                "[batch, 1, tokens, keys], True = masked"
            )
        if attention_mask is not None and attention_mask.ndim == 4:
            return self._given_mask(attention_mask, inputs_embeds, past_key_values)
        context_blocks = None
        if is_prompt:
            if input_ids is None:
                raise ValueError("with inputs_embeds pass a 4-D attention_mask: the context's end is not known")
            padding = count_padding(self.config, input_ids, attention_mask)
            if attention_mask is None and bool(padding.any()):
                attention_mask = masking.mask_from_padding(padding, input_ids.shape[1])
            context = masking.context_length(input_ids, self.config.bos_token_id)
            context_blocks = masking.context_block_ids(padding, context, input_ids.shape[1])
        if attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None
        mask = create_causal_mask(
            self.config,
            inputs_embeds,
            attention_mask,
            past_key_values,
            block_sequence_ids=context_blocks,
            allow_is_causal_skip=inputs_embeds.shape[1] == 1,
        )
        if attention_mask is not None and is_prompt and isinstance(mask, Tensor) and mask.dtype == torch.bool:
            mask = masking.additive_mask(mask, inputs_embeds.dtype)
        return mask

    def _given_mask(self, attention_mask: Tensor, inputs_embeds: Tensor, past_key_values: Cache | None) -> Tensor:
        if self.config._attn_implementation == "flex_attention":
            raise UnsupportedError("flex_attention takes no ready 4-D attention_mask; use 'sdpa' or 'eager'")
        if attention_mask.dtype != torch.bool and not attention_mask.is_floating_point():
            raise ValueError(
                "a 4-D attention_mask must be bool (True = masked) or an additive float mask, not "
                f"{attention_mask.dtype}"
            )
        visible = ~attention_mask if attention_mask.dtype == torch.bool else attention_mask
        query_length = inputs_embeds.shape[1]
        key_length = attention_mask.shape[-1]
        if past_key_values is not None:
            key_length, _ = past_key_values.get_mask_sizes(query_length, 0)
        if attention_mask.shape[-2] != query_length or attention_mask.shape[-1] > key_length:
            raise ValueError(
                f"attention_mask has shape {list(attention_mask.shape)}; for {query_length} new tokens and "
                f"{key_length} keys it must be [batch, 1, {query_length}, {key_length}]"
            )
        if visible.dtype == torch.bool:
            by_steps = attention_in_use(self.config, inputs_embeds) == "eager"
            visible = masking.additive_mask(visible, torch.float32 if by_steps else inputs_embeds.dtype)
        lowest = torch.finfo(visible.dtype).min
        return F.pad(visible, (0, key_length - attention_mask.shape[-1]), value=lowest)

    def _prefix(self, past_key_values: Cache | None, inputs_embeds: Tensor, is_prompt: bool) -> Tensor | None:
        """The P-Tuning prefix, encoded once per cache."""
        if self.prefix_encoder is None:
            return None
        if past_key_values is None:
            return self.prefix_encoder(inputs_embeds.dtype, len(inputs_embeds))
        if is_prompt:
            past_key_values.glm_prefix = self.prefix_encoder(inputs_embeds.dtype, len(inputs_embeds))
        return past_key_values.glm_prefix


def _require_one_per_token(config: GLMConfig, position_ids: Tensor, length: int) -> None:
    rows = (2,) if config.position_encoding_2d else ()
    if position_ids.shape[1:] != (*rows, length):
        wanted = ", ".join(["batch", *map(str, rows), str(length)])
        raise ValueError(
            f"position_ids has shape {list(position_ids.shape)}; for {length} tokens it must be [{wanted}]"
        )


class GLMForCausalLM(GLMPreTrainedModel):
    """The decoder with its head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012
    decoder_class: type[GLMModel] = GLMModel

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.model = self.decoder_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = make_linear(config.embedding_bit, config.hidden_size, config.vocab_size, bias=False)
        if config.embedding_bit:
            self._tied_weights_keys = self._tied_weights_keys | TIED_SCALE
        if self.model.prefix_encoder is not None:
            self.lm_head.requires_grad_(False)
        self.post_init()

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        # As in the original, a tied model ignores the head of the file even where it differs from the embedding;
        # transformers would untie the two.
        if missing_keys is not None:
            missing_keys.update(self.all_tied_weights_keys)
        super().tie_weights(missing_keys=missing_keys, recompute_mapping=recompute_mapping)

    def derive_position_ids(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, length: int | None = None
    ) -> Tensor:
        """Positions of whole sequences of ids; see :func:`.positions.derive_position_ids`."""
        return derive_position_ids(self.config, input_ids, attention_mask, length)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [batch, length or ``logits_to_keep``, vocab]; arguments as in :meth:`GLMModel.forward`.

        Args:
            labels: [batch, length], -100 where no loss is taken; shifted by one here. The loss is the mean over all
                counted tokens of the batch, computed in float32 and rounded to the dtype of the hidden states.
            logits_to_keep: the last so many positions, or their indices; 0 for all.
        """
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
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
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
