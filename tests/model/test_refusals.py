"""What a bidirectional prompt cannot do is refused with a sentence, never answered wrongly."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.errors import UnsupportedError

SOP, EOP, MASK, GMASK = 60, 61, 62, 63


@pytest.fixture(scope="module")
def model() -> ChatGLMForCausalLM:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        vocab_size=64, hidden_size=16, num_layers=2, num_attention_heads=2, inner_hidden_size=32, use_cache=True,
        bos_token_id=SOP, eos_token_id=EOP, mask_token_id=MASK, gmask_token_id=GMASK, pad_token_id=3,
    )  # fmt: skip
    return ChatGLMForCausalLM(config).eval()


PROMPT = torch.tensor([[10, 11, 12, 13, GMASK, SOP]])


@pytest.mark.parametrize("attention", ["flash_attention_2", "paged|sdpa", "kernels-community/flash-attn"])
def test_attention_without_a_mask(model: ChatGLMForCausalLM, attention: str) -> None:
    with pytest.raises(UnsupportedError, match="bidirectional"):
        model.set_attn_implementation(attention)


def test_prefill_in_chunks(model: ChatGLMForCausalLM) -> None:
    with pytest.raises(UnsupportedError, match="prefill_chunk_size=2"):
        model.generate(PROMPT, max_new_tokens=2, prefill_chunk_size=2)
    with pytest.raises(UnsupportedError, match="prefill_chunk_size=2"):
        next(model.stream_generate(PROMPT, max_new_tokens=2, prefill_chunk_size=2))


@pytest.mark.parametrize("entrance", ["generate_batch", "init_continuous_batching"])
def test_continuous_batching(model: ChatGLMForCausalLM, entrance: str) -> None:
    with pytest.raises(UnsupportedError, match="left-padded batch"):
        getattr(model, entrance)(inputs=PROMPT.tolist())


def test_paged_cache(model: ChatGLMForCausalLM) -> None:
    with pytest.raises(UnsupportedError, match="left-padded batch"):
        model.generate(PROMPT, max_new_tokens=2, cache_implementation="paged")


def test_going_on_from_a_part_of_the_context(model: ChatGLMForCausalLM) -> None:
    first = model(PROMPT[:, :4], position_ids=torch.zeros(1, 2, 4, dtype=torch.long),
                  attention_mask=torch.zeros(1, 1, 4, 4, dtype=torch.bool), use_cache=True)  # fmt: skip
    with pytest.raises(UnsupportedError, match="4 tokens of a context of 5"):
        model.generate(PROMPT, max_new_tokens=2, past_key_values=first.past_key_values)
    with pytest.raises(UnsupportedError, match="4 tokens of a context of 5"):
        next(model.stream_generate(PROMPT, max_new_tokens=2, past_key_values=first.past_key_values))


def test_going_on_from_the_whole_context(model: ChatGLMForCausalLM) -> None:
    """What is cached of a prompt is not computed again, and the tokens are those of an empty cache."""
    wanted = model.generate(PROMPT, max_new_tokens=4, do_sample=False, eos_token_id=None)
    cache = DynamicCache()
    model(wanted[:, :6], cache=cache)
    *_, streamed = model.stream_generate(
        wanted[:, :7], max_new_tokens=3, do_sample=False, eos_token_id=None, past_key_values=cache
    )
    assert streamed.tolist() == wanted[:, :9].tolist()


@pytest.mark.parametrize(
    ("ids", "what"),
    [([10, 11, GMASK], "<sop>"), ([10, 11, SOP], "mask token"), ([10, 11], "<sop>")],
)
def test_no_glm_prompt(model: ChatGLMForCausalLM, ids: list[int], what: str) -> None:
    with pytest.raises(ValueError, match=f"row 0 of input_ids holds no .*{what}"):
        model(torch.tensor([ids]))


def test_new_tokens_without_positions(model: ChatGLMForCausalLM) -> None:
    cache = model(PROMPT, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="derive_position_ids"):
        model(PROMPT[:, :1], past_key_values=cache)


def test_ids_and_embeddings_at_once(model: ChatGLMForCausalLM) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        model(PROMPT, inputs_embeds=model.get_input_embeddings()(PROMPT))


@pytest.mark.parametrize("shape", [(1, 1, 3, 6), (1, 1, 6, 9)])
def test_a_mask_of_another_shape(model: ChatGLMForCausalLM, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model(PROMPT, attention_mask=torch.zeros(shape, dtype=torch.bool))


def test_a_mask_of_no_known_kind(model: ChatGLMForCausalLM) -> None:
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"not torch\.int64"):
        model(PROMPT, attention_mask=mask.long())
    with pytest.raises(ValueError, match=r"\[1, 6, 6\]; it must be"):
        model(PROMPT, attention_mask=mask[0])


@pytest.mark.parametrize("positions", [torch.arange(6)[None], torch.zeros(1, 2, 5, dtype=torch.long)], ids=["row", "5"])
def test_positions_of_another_shape(model: ChatGLMForCausalLM, positions: Tensor) -> None:
    with pytest.raises(ValueError, match=r"position_ids has shape .* must be \[batch, 2, 6\]"):
        model(PROMPT, position_ids=positions)


def test_flex_attention_with_a_prefix(model: ChatGLMForCausalLM) -> None:
    config = copy.deepcopy(model.config)
    config.pre_seq_len = 2
    with pytest.raises(UnsupportedError, match="prefix"):
        logits_with(ChatGLMForCausalLM(config).eval(), "flex_attention", PROMPT)


@pytest.mark.parametrize("max_length", [2, 6])
def test_a_prompt_as_long_as_max_length_gets_one_token(model: ChatGLMForCausalLM, max_length: int) -> None:
    """No refusal: transformers 4.27 went on for a token."""
    assert model.generate(PROMPT, max_length=max_length, do_sample=False).shape == (1, 7)
    assert list(model.stream_generate(PROMPT, max_length=max_length, do_sample=False)) == []


def logits_with(model: ChatGLMForCausalLM, attention: str, ids: Tensor) -> Tensor:
    model.set_attn_implementation(attention)
    try:
        with torch.no_grad():
            return model(ids).logits
    finally:
        model.set_attn_implementation("sdpa")


def test_flex_attention_equals_sdpa(model: ChatGLMForCausalLM) -> None:
    ids = torch.cat([PROMPT, torch.tensor([[20, 21, 22]])], dim=1)
    torch.testing.assert_close(logits_with(model, "flex_attention", ids), logits_with(model, "sdpa", ids))
