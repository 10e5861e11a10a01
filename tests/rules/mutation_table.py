"""Faults in the package that a test must name. A row: what stands there once, what is put there, words of the rule.

The words are a piece of the name of the test function that must fail. Where the sources change, change the row: any
small piece of text that breaks the rule will do.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Attributes:
        file: its place in ``glm_model``.
        old: text that occurs there exactly once.
        new: what stands there instead.
        rule: a piece of the name of a test function that must fail.
        test_files: where the tests that fail lie, all of them; names in ``tests/rules`` without ``.py``.
    """

    file: str
    old: str
    new: str
    rule: str
    test_files: tuple[str, ...]


def rows(file: str, test_files: str, *faults: tuple[str, str, str]) -> list[Mutation]:
    """Return mutations of a file from (old, new, rule) that the tests of some files, named in one string, notice."""
    return [Mutation(file, old, new, rule, tuple(test_files.split())) for old, new, rule in faults]


NETWORK = [
    *rows(
        "model/rotary.py",
        "test_rotary",
        ("torch.cat([-second, first], dim=-1)", "torch.cat([second, -first], dim=-1)", "rotary_sign"),
        ("states.chunk(2, dim=-1)", "(states[..., ::2], states[..., 1::2])", "not_interleaved"),
        ("angles.cos().to(dtype), angles.sin()", "angles.sin().to(dtype), angles.cos()", "position_0_is_not_rotated"),
        (".half().float()", "", "frequencies_are_rounded_to_half"),
        ("angle_dtype = dtype if rounds_angle else", "angle_dtype =", "angle_itself_is_rounded_in_half"),
        ("dtype == torch.float16 and", "dtype != torch.float32 and", "angle_is_not_rounded_in_other_precisions"),
        (
            "position_ids.view(len(position_ids), self.rows, -1)",
            "position_ids.view(len(position_ids), self.rows, -1).flip(1)",
            "second_half_is_rotated_by_block_positions",
        ),
        ("* self.inv_freq.to(angle_dtype)", "* self.inv_freq.to(angle_dtype).flip(0)", "first_half_is_rotated"),
    ),
    *rows(
        "model/rotary.py",
        "test_rotary test_checkpoint",
        ("ROTARY_BASE = 10000.0", "ROTARY_BASE = 1000.0", "rotary_frequencies"),
    ),
    *rows(
        "model/positions.py",
        "test_positions test_blank_filling",
        ("index - context[:, None] + 1)", "index - context[:, None])", "row_1_is_0_in_the_context_and_counts_from_1"),
        ("in_context = index < context[:, None]", "in_context = index <= context[:, None]", "from_sop_on"),
        ("torch.stack([row_0, row_1], dim=1)", "torch.stack([row_1, row_0], dim=1)", "row_0_counts"),
        ("(index >= context[:, None]) & ~", "(index > context[:, None]) & ~", "stays_at_mask_and_smask"),
        (
            "(index >= context[:, None]) & ~counts_on",
            "(index >= context[:, None]) & counts_on",
            "counts_on_after_gmask",
        ),
    ),
    *rows(
        "model/positions.py",
        "test_positions",
        (
            "torch.where(in_context, index - padding[:, None], (blank - padding)[:, None])",
            "torch.where(in_context, index, blank[:, None])",
            "padding_shifts_no_position",
        ),
        ("counted = (index - padding[:, None])", "counted = index", "glm130b_padding_shifts_no_position"),
        ("torch.where(stays, (blank - padding)", "torch.where(stays, blank", "glm130b_padding_shifts_no_position"),
        ("input_ids.masked_fill(answer, -1)", "input_ids", "not_moved_by_a_generated_mask"),
        ("kind == config.gmask_token_id, length", "kind == config.mask_token_id, length", "counts_on_after_gmask"),
        ("torch.zeros_like(steps), steps", "steps, torch.zeros_like(steps)", "row_0_repeats_and_row_1_counts"),
        ("steps * (kind == config.gmask_token_id)", "steps * (kind > 0)", "continued_by_kind"),
        (
            "return masking.padding_from_mask(attention_mask[",
            "return 0 * masking.padding_from_mask(attention_mask[",
            "padding_is_what_a_given_mask_says",
        ),
    ),
    *rows(
        "model/masking.py",
        "test_positions",
        ("in reversed(mask_token_priority)", "in mask_token_priority", "first_mask_of_the_first_kind"),
    ),
    *rows(
        "model/masking.py",
        "test_masks test_attention",
        ("(index < context[:, None])", "(index <= context[:, None])", "context_does_not_see_sop"),
        ("(index < context[:, None])", "(index < context[:, None] - 1)", "context_is_seen_by_everybody"),
        ("(index >= padding[:, None]) & (index < context", "(index < context", "context_blocks_are_0_for_context"),
        ("(index[:, None] >= index)", "(index[:, None] > index)", "answer_is_causal_from_sop_on"),
        (" & is_real[:, :, None]", "", "padding_sees_nobody"),
        (" & is_real[:, None, :]", "", "padding_is_seen_by_nobody"),
        ("return ~(visible & ", "return (visible & ", "mask_of_whole_sequences"),
        ("pad_token_id).long().cumprod(dim=-1)", "pad_token_id).long()", "padding_is_counted_in_front_only"),
        ("(attention_mask == 0).long().cumprod(dim=-1)", "(attention_mask == 0).long()", "counted_in_front_only"),
        (".triu(1)", ".triu(0)", "new_rows_see_what_the_last_row_sees_and_each_other_causally"),
        (".triu(1)", ".triu(2)", "new_rows_see_what_the_last_row_sees_and_each_other_causally"),
        ("attention_mask[:, :, -1:]", "attention_mask[:, :, :1]", "new_rows_see_what_the_last_row_sees"),
        ("(0, new), value=True)", "(0, new), value=False)", "extended_mask"),
    ),
    *rows(
        "model/masking.py",
        "test_masks test_attention",
        ("torch.finfo(dtype).min", "float('-inf')", "additive_mask_is_finite"),
        ("torch.finfo(dtype).min", "-100.0", "swallows_every_score"),
    ),
    *rows(
        "model/masking.py",
        "test_masks test_positions test_blank_filling",
        ("return _first(is_sop)", "return _first(is_sop) + 1", "context_ends_at_the_first_sop"),
        (
            "flags.int().argmax(dim=-1)",
            "flags.shape[-1] - 1 - flags.int().flip(-1).argmax(dim=-1)",
            "context_ends_at_the_first_sop",
        ),
    ),
    *rows(
        "model/attention_mask.py",
        "test_masks test_blank_filling test_attention",
        ("visible = ~attention_mask if", "visible = attention_mask if", "given_mask_in_which_true_means_masked"),
        (
            "context_blocks = masking.context_block_ids(padding, context, input_ids.shape[1])",
            "context_blocks = None",
            "model_context_is_bidirectional",
        ),
        ("if attention_mask is None and bool(padding.any()):", "if False:", "model_padding_is_seen_by_nobody"),
    ),
    *rows(
        "model/attention.py",
        "test_attention test_prefix",
        ("layer_number = module.layer_idx + 1", "layer_number = 1", "layer_number_divides_the_query"),
        (".float() * layer_number", ".float()", "layer_number_cancels"),
        (".float() * layer_number", " * layer_number", "layer_number_multiplies_scores_in_float32"),
        ("F.softmax(scores, dim=-1, dtype=torch.float32)", "F.softmax(scores.to(query.dtype), dim=-1)", "softmax_is"),
        (
            ".unflatten(-1, (-1, 3 * self.head_dim))",
            ".unflatten(-1, (3, -1, self.head_dim)).transpose(-3, -2).flatten(-2)",
            "qkv_rows_are_interleaved_per_head",
        ),
        ("value = fused[..., 2 * self.head_dim :]", "value = fused[..., : self.head_dim]", "qkv_rows"),
        ("query, key = (part.flatten", "key, query = (part.flatten", "qkv_rows"),
        ("in rotate(some, cos, sin).unbind(3)", "in some.unbind(3)", "rotation_turns_query_and_key"),
        ("additive_mask(attention_mask, torch.float32)", "(~attention_mask).log()", "eager_mask_true_means_visible"),
    ),
    *rows(
        "model/attention.py",
        "test_attention test_prefix",
        ("self.head_dim**-0.5", "1 / self.head_dim", "scores_are_divided_by_the_root"),
    ),
    *rows(
        "model/attention.py",
        "test_prefix",
        (
            "prefix[2 * self.layer_idx], prefix[2 * self.layer_idx + 1]",
            "prefix[2 * self.layer_idx + 1], prefix[2 * self.layer_idx]",
            "prefix_of_a_layer",
        ),
    ),
    *rows(
        "model/decoder.py",
        "test_prefix",
        ("value=mask.dtype == torch.bool)", "value=mask.dtype != torch.bool)", "prefix_is_seen_by_every_token"),
    ),
    *rows(
        "model/prefix.py",
        "test_prefix",
        ("nn.Tanh()", "nn.ReLU()", "prefix_holds_keys_and_values"),
        (".permute(1, 2, 0, 3)", ".permute(1, 2, 0, 3).flip(0)", "prefix_holds_keys_and_values"),
    ),
    *rows(
        "model/layers.py",
        "test_deepnorm",
        ("[0] + hidden_states * self.alpha", "[0] + hidden_states", "residual_is_the_normalised_input_times_alpha"),
        (
            "self.mlp(hidden_states) + hidden_states * self.alpha",
            "self.mlp(hidden_states) + hidden_states",
            "residual_of_the_mlp",
        ),
        (
            "hidden_states = self.input_layernorm(hidden_states)\n"
            "        hidden_states = self.self_attn(hidden_states, **kwargs)[0] + hidden_states * self.alpha",
            "normed = self.input_layernorm(hidden_states)\n"
            "        hidden_states = self.self_attn(normed, **kwargs)[0] + hidden_states * self.alpha",
            "residual_is_the_normalised_input",
        ),
        ("self.alpha = config.residual_alpha", "self.alpha = (2 * config.num_layers) ** 0.5", "alpha_of_chatglm"),
    ),
    *rows(
        "model/configuration.py",
        "test_deepnorm",
        ("math.sqrt(2 * 28)", "math.sqrt(2 * self.num_layers)", "alpha_of_chatglm_is_that_of_28_layers"),
        ("math.sqrt(2 * self.num_layers)", "math.sqrt(2 * 28)", "alpha_of_glm130b_is_that_of_its_layers"),
    ),
    *rows(
        "model/decoder.py",
        "test_deepnorm",
        ("last_hidden_state=self.norm(hidden_states)", "last_hidden_state=hidden_states", "one_after_the_last_layer"),
    ),
    *rows(
        "model/layers.py",
        "test_mlp",
        ("linear, gate = inner.chunk(2, dim=-1)", "gate, linear = inner.chunk(2, dim=-1)", "geglu_of_glm130b"),
        (
            "linear * F.gelu(gate)",
            "linear * F.gelu(gate, approximate='tanh')",
            "gates_the_first_half_with_the_exact",
        ),
        ("return gelu(inner)", "return F.relu(inner)", "gelu_of_chatglm"),
    ),
    *rows(
        "model/rounding.py",
        "test_mlp",
        ('F.gelu(states, approximate="tanh")', "F.gelu(states)", "gelu_of_chatglm_is_the_tanh_approximation"),
        ("0.044715 * states * states", "0.044715 * (states * states)", "gelu_in_half_rounds_after_every_operation"),
        ("product + self.bias", "super().forward(states)", "row_parallel_bias_of_glm130b"),
        ("if isinstance(config, GLM130BConfig) else nn.Linear", "", "row_parallel_bias_of_glm130b"),
    ),
    *rows(
        "model/configuration.py",
        "test_layernorm test_deepnorm",
        ("layernorm_epsilon: float = 1e-5", "layernorm_epsilon: float = 1e-6", "layernorm_epsilon_is_1e_minus_5"),
    ),
    *rows(
        "model/layers.py",
        "test_layernorm",
        (
            "self.post_attention_layernorm = GLMLayerNorm(config.hidden_size, eps=config.layernorm_epsilon)",
            "self.post_attention_layernorm = GLMLayerNorm(config.hidden_size, eps=1e-6)",
            "layernorm_epsilon",
        ),
    ),
    *rows(
        "model/norm.py",
        "test_layernorm test_loss",
        (
            "super().forward(hidden_states.to(self.weight.dtype))",
            "self.half().forward(hidden_states)",
            "layernorm_of_half_activations",
        ),
    ),
    *rows(
        "model/configuration.py",
        "test_positions test_blank_filling",
        ("(self.gmask_token_id, self.mask_token_id)", "(self.mask_token_id, self.gmask_token_id)", "blank_of_chatglm"),
        (
            "(self.mask_token_id, self.smask_token_id, self.gmask_token_id)",
            "(self.gmask_token_id, self.smask_token_id, self.mask_token_id)",
            "glm130b_blank_is_mask_before_smask_before_gmask",
        ),
    ),
    *rows(
        "model/configuration.py",
        "test_checkpoint",
        ("tie_word_embeddings: bool = True", "tie_word_embeddings: bool = False", "tied_head_is_the_embedding"),
        ("pad_token_id: int = 0", "pad_token_id: int = 3", "configuration_left_out"),
        ("[150005, 20002]", "[150005]", "configuration_of_glm130b"),
    ),
    *rows(
        "checkpoint/reading.py",
        "test_checkpoint",
        (
            "    model.tie_weights(recompute_mapping=False)\n    info.missing_keys.update(tied)\n",
            "",
            "tied_head_is_the_embedding",
        ),
    ),
    *rows(
        "checkpoint/keys.py",
        "test_checkpoint",
        ('"model.final_layernorm", "model.norm"', '"model.final_layernorm", "model.normed"', "published_keys_land"),
    ),
    *rows(
        "model/decoder.py",
        "test_loss",
        ("labels=labels, vocab", "labels=labels, shift_labels=labels, vocab", "loss_is_shifted"),
        ("labels=labels, vocab", "labels=labels.clamp(min=0), vocab", "loss_of_minus_100"),
        ("labels=labels, vocab", "num_items_in_batch=1, labels=labels, vocab", "mean_over_all_counted_tokens"),
        ("loss.to(outputs.last_hidden_state.dtype)", "loss.float()", "given_in_the_working_dtype"),
    ),
]

PACKED_WEIGHTS = [
    *rows(
        "kernels/packing.py",
        "test_packing",
        (
            "(integers[..., ::2] << 4) | (integers[..., 1::2] & 15)",
            "(integers[..., 1::2] << 4) | (integers[..., ::2] & 15)",
            "nibble_order",
        ),
        ("[packed >> 4, (packed << 4) >> 4]", "[(packed << 4) >> 4, packed >> 4]", "nibble_order"),
        ("(packed << 4) >> 4]", "packed & 15]", "nibble_sign"),
        ("[packed >> 4,", "[(packed >> 4) & 15,", "nibble_sign"),
        ("2 ** (bits - 1) - 1", "2 ** (bits - 1)", "scale_of_a_row"),
        ("rows.abs().amax(dim=-1)", "rows.amax(dim=-1)", "scale_of_a_row"),
        ("rows.abs().amax(dim=-1)", "rows.abs().amax().expand(len(rows))", "scale_of_a_row"),
        ("device=peak.device)).half()", "device=peak.device))", "scale_is_rounded_to_half_before"),
        ("torch.round(weight / scale[:, None])", "(weight / scale[:, None] + 0.5).floor()", "rounding_of_halves"),
        ("torch.round(weight / scale[:, None])", "torch.round(weight.float() / scale[:, None])", "dtype_of_the_weight"),
        ("scale.to(working)[..., None]", "scale.to(working)[0]", "times_the_scale_of_its_row"),
    ),
    *rows(
        "kernels/reference.py",
        "test_packing",
        ("product + bias.to(product.dtype)", "product", "packed_product"),
    ),
    *rows(
        "quantization/rules.py",
        "test_packing",
        ("dense_h_to_4h|dense_4h_to_h", "dense_h_to_4h", "packed_layers_are_the_four_linear_ones"),
        ("embeddings and _EMBEDDINGS", "_EMBEDDINGS", "packed_embeddings_are_asked_for"),
    ),
    *rows(
        "conversion/tensor_parallel.py",
        "test_tensor_parallel",
        (
            "part[half] for half in (0, 1) for part in halves",
            "part[half] for part in halves for half in (0, 1)",
            "halves",
        ),
        ('"query_key_value": _BY_ROWS', '"query_key_value": _BY_COLUMNS', "cut_by_rows"),
        ('"dense": _BY_COLUMNS', '"dense": _BY_ROWS', "cut_by_columns"),
        ("all(torch.equal(first, part) for part in parts)", "True", "cut_of_scales_every_rank_has_its_own"),
    ),
]

TEXTS = [
    *rows(
        "text/chat_format.py",
        "test_chat_format",
        ("enumerate(history)]", "enumerate(history, 1)]", "rounds_are_numbered_from_0"),
        ("[Round {len(rounds)}]", "[Round {len(rounds) - 1}]", "rounds_are_numbered_from_0"),
        (
            '问：{question}\\n答：{answer}\\n" for',
            '问:{question}\\n答：{answer}\\n" for',
            "colons_of_a_prompt_are_full_width",
        ),
        ('{answer}\\n" for', '{answer}\\n\\n" for', "lines_of_a_prompt_are_broken_once"),
        ('{query}\\n答："', '{query}\\n答：\\n"', "the_last_is_left_open"),
        ("        return query", "        return query.strip()", "prompt_without_history"),
        ("response.strip().replace", "response.replace", "response_is_stripped"),
        ('[[训练时间]]", "2023年"', '[[训练时间]]", "2022年"', "2023_for_the_training_date"),
        ("，！：；？", "，！：；?", "punctuation_is_full_width_beside_chinese"),
        ("\\u9fff]", "\\u9fa5]", "beside_u4e00_to_u9fff_only"),
        ("\\u4e00-", "\\u3400-", "beside_u4e00_to_u9fff_only"),
        ("|\\{ascii_}(?={_HANZI})", "", "punctuation_is_full_width_beside_chinese"),
    ),
    *rows(
        "text/sentencepiece_text.py",
        "test_tokenizer",
        ("LONGEST_BLANK = 80", "LONGEST_BLANK = 79", "white_space_runs_of_2_to_80"),
        ("if rest > 1 else", "if rest > 0 else", "a_single_space_stays"),
        ('.replace("\\t", "<|tab|>")', "", "white_space_line_breaks_and_tabs"),
        ("index + self.num_image_tokens for", "index for", "after_20000_image_tokens"),
        ('return f"<image_{token_id}>"', 'return f"<image_{index}>"', "after_20000_image_tokens"),
        ("WHITE_SPACE_PIECES.get(match[0], match[0])", "match[0]", "white_space_pieces_are_turned_back"),
    ),
    *rows(
        "text/tokenizer.py",
        "test_tokenizer",
        (
            "prompt = [*token_ids_0, self.gmask_token_id, self.bos_token_id]",
            "prompt = [*token_ids_0, self.bos_token_id, self.gmask_token_id]",
            "prompt_ends_in_gmask_and_sop",
        ),
        ("*token_ids_1, self.eos_token_id]", "*token_ids_1]", "pair_is_first_gmask_sop_second_eop"),
        ("[self.pad_token_id] * length + ids", "ids + [self.pad_token_id] * length", "padding_is_in_front"),
        ("[(0, 0), (length, 0)])", "[(0, 0), (length, 0)], constant_values=1)", "padding_has_position_0"),
        ("self.mask_token_id if self.mask_token_id in ids else", "", "positions_stay_at_mask_before_gmask"),
        ("np.arange(1, len(ids) - context + 1)", "np.arange(len(ids) - context)", "padding_has_position_0"),
        ("mask[:, : self._context_length(ids)]", "mask[:, : self._context_length(ids) + 1]", "sop_to_itself"),
        ("constant_values=True", "constant_values=False", "padding_is_masked_in_rows_and_columns"),
        ("part.lstrip() if index > 0 else part", "part", "lose_the_space_around_them"),
        (" if token_id != pad]", "]", "decoding_drops_padding"),
        ('("clean_up_tokenization_spaces", True)', '("clean_up_tokenization_spaces", False)', "decoding_cleans_up"),
    ),
]

GENERATION = [
    *rows(
        "options/answers.py",
        "test_generation test_sampling",
        ("PUBLISHED_TOP_K = 50", "PUBLISHED_TOP_K = 0", "top_k_is_50"),
        ("_LOWEST_TEMPERATURE = 1e-6", "_LOWEST_TEMPERATURE = 1e-8", "temperature_0_is_greedy"),
    ),
    *rows(
        "generation/sampling.py",
        "test_generation",
        ("token_id: int = 5", "token_id: int = 6", "invalid_scores_choose_token_5"),
        (
            "torch.isfinite(scores).all(dim=-1).tolist()",
            "list(map(math.isfinite, sums))",
            "not_finite_not_those_whose_sum_is_not",
        ),
    ),
    *rows(
        "generation/chat.py",
        "test_generation",
        ("if not finished:", "if True:", "published_stream_never_yields_the_last_token"),
        ("prepared.max_length = input_ids_length + 1", "prepared.max_length = input_ids_length + 2", "gives_one_token"),
    ),
    *rows(
        "generation/answer.py",
        "test_generation test_blank_filling",
        (
            "self.length >= self._most",
            "self.length > self._most",
            "max_length_counts_prompt_and_answer",
        ),
    ),
    *rows(
        "generation/stream.py",
        "test_generation",
        ("TextChunk(text + rest, count,", "TextChunk(rest, count,", "front_end_stream_loses_no_token"),
        ("len(prompt_ids) >= options.max_length", "len(prompt_ids) > options.max_length", "max_length_without_room"),
    ),
    *rows(
        "generation/published_beams.py",
        "test_beams",
        ("(answer_length / length) ** length_penalty", "1.0", "beam_score_is_divided_by_the_length_of_prompt"),
        ("length = cur_len + (~ended)", "length = cur_len + 1 + 0 * (~ended)", "without_its_end"),
    ),
    *rows(
        "blank_filling/beam_search.py",
        "test_beams",
        ("(5.0 + self.length + 1)", "(5.0 + self.length + 1 - self._prompt_length)", "sat_beam_score_is_divided"),
        ("max(self._prompt_length, prefix)", "prefix", "ngram_of_the_answer_but_not_of_the_prompt"),
        ("- self._prompt_length < self._min", "- self._prompt_length <= self._min", "not_end_before_its_least_length"),
    ),
    *rows(
        "blank_filling/sampling.py",
        "test_sampling test_beams",
        ("FILTERED = -65504.0", "FILTERED = float('-inf')", "filtered_scores_are_minus_65504"),
        ("scores = scores / self.temperature", "scores = scores * self.temperature", "sat_order_temperature"),
        ("F.pad(is_past[:, :-1], (1, 0), value=False)", "is_past", "top_p_keeps_the_first_token_past_it"),
    ),
    *rows(
        "blank_filling/text.py",
        "test_blank_filling",
        (
            "if parts[-1] and len(config.end_token_ids) > 1:",
            "if len(config.end_token_ids) > 1:",
            "end_of_text_is_appended",
        ),
        ("if parts[-1] and len(config.end_token_ids) > 1:", "if False:", "end_of_text_is_appended"),
        ('_mask_piece("[gMASK]", masks)', '_mask_piece("[MASK]", masks)', "gmask_is_appended"),
        (
            '{"[MASK]": config.mask_token_id, "[sMASK]": config.smask_token_id, "[gMASK]": config.gmask_token_id}',
            '{"[gMASK]": config.gmask_token_id, "[sMASK]": config.smask_token_id, "[MASK]": config.mask_token_id}',
            "kind_of_mask_that_is_filled",
        ),
    ),
    *rows(
        "blank_filling/answers.py",
        "test_blank_filling",
        (
            "masked[..., :-1, -1] = True",
            "masked[..., :-1, -1] = False",
            "not_see_sop_while_a_blank_is_filled",
        ),
        ("if token in ends:", "if token in ends[:1]:", "end_tokens_of_glm130b"),
    ),
    *rows(
        "training/objective.py",
        "test_objective",
        ("range(1, len(span) + 2)", "range(len(span) + 1)", "training_positions"),
        ("[*span, special.eop]", "[special.sop, *span]", "training_targets"),
        ("[place] * (len(span) + 1)", "range(place, place + len(span) + 1)", "training_positions"),
    ),
]

MUTATIONS = [*NETWORK, *PACKED_WEIGHTS, *TEXTS, *GENERATION]
