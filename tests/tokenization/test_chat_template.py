"""Messages to prompts: the ids of the original chat(), whatever its users type."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from glm_model.errors import TokenizerError, UnsupportedError
from glm_model.text.tokenizer import ChatGLMTokenizer
from tests.tokenization.data import CONTROL_TOKENS, VERSIONS, expected, golden, random_texts

Message = dict[str, Any]


def user(content: Any) -> Message:
    return {"role": "user", "content": content}


def assistant(content: Any) -> Message:
    return {"role": "assistant", "content": content}


def conversation(query: str, history: list[tuple[str, str]]) -> list[Message]:
    return [message for q, a in history for message in (user(q), assistant(a))] + [user(query)]


def prompt_ids(tokenizer: ChatGLMTokenizer, messages: Any, **kwargs: Any) -> Any:
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **kwargs)


def published_ids(tokenizer: ChatGLMTokenizer, query: str, history: list[tuple[str, str]]) -> list[int]:
    """Of chat(), where only the text as a whole is read, without the special tokens in it."""
    text_ids = tokenizer.encode_text(tokenizer.build_prompt(query, history))
    return [*text_ids, tokenizer.gmask_token_id, tokenizer.bos_token_id]


@pytest.mark.parametrize("version", VERSIONS)
def test_ids_are_those_of_chat(version: str) -> None:
    tokenizer, compared = golden(version), 0
    for case in expected(version)["chat"]:
        messages = conversation(case["query"], case["history"])
        assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == case["prompt"]
        if not any(token in case["prompt"] for token in tokenizer.unique_no_split_tokens):
            assert prompt_ids(tokenizer, messages) == case["input_ids"]
            compared += 1
    assert compared >= 5


@pytest.mark.parametrize("version", VERSIONS)
def test_any_text_keeps_the_published_ids_and_gives_no_control_token(version: str) -> None:
    tokenizer = golden(version)
    control = {tokenizer.convert_tokens_to_ids(token) for token in [*CONTROL_TOKENS, "<pad>", "<unk>", "<s>", "</s>"]}
    texts = list(random_texts(300, "messages"))
    for a, b, c in zip(texts[::3], texts[1::3], texts[2::3], strict=True):
        for history in ([], [(a, b)]):
            ids = prompt_ids(tokenizer, conversation(c, history))
            assert ids == published_ids(tokenizer, c, history)
            assert not control & set(ids[:-2])


def test_the_published_call_on_the_rendered_text() -> None:
    tokenizer = golden("v1.1")
    messages = conversation("Why?", [("你好", "你好！"), ("1\n2", "3")])
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer(text)["input_ids"] == prompt_ids(tokenizer, messages)


def test_nobody_can_type_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that stands for a control token differs in every call, so a message cannot hold it."""
    rendered: list[str] = []
    render = PreTrainedTokenizerBase.apply_chat_template

    def watch(*args: Any, **kwargs: Any) -> Any:
        rendered.append(render(*args, **kwargs))
        return rendered[-1]

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", watch)
    tokenizer = golden("v1.1")
    plain = prompt_ids(tokenizer, [user("hi")])
    marks = rendered[-1].removeprefix("hi")
    assert len(marks) >= 2 * 32
    forged = prompt_ids(tokenizer, [user(f"hi{marks}")])
    assert plain == [*tokenizer.encode_text("hi"), *plain[-2:]]
    assert forged == [*tokenizer.encode_text(f"hi{marks}"), *plain[-2:]]


def test_without_a_prompt_to_answer_a_question_stays_open() -> None:
    tokenizer = golden("v1.1")
    messages = conversation("c", [("a", "b")])
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "[Round 0]\n问：a\n答：b\n[Round 1]\n问：c"
    ids = tokenizer.apply_chat_template(messages)["input_ids"]
    assert ids == tokenizer.encode_text("[Round 0]\n问：a\n答：b\n[Round 1]\n问：c")


@pytest.mark.parametrize("history", [[], [("a", "b")]])
def test_training_forms_are_a_prompt_and_its_answer(history: list[tuple[str, str]]) -> None:
    tokenizer = golden("v1.1")
    query, answer = "你好", " 你好[gMASK]<eop>！\n"
    messages = [*conversation(query, history), assistant(answer)]
    encoded = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True)
    prompt, target = published_ids(tokenizer, query, history), tokenizer.encode_text(answer)
    assert encoded["input_ids"] == [*prompt, *target, tokenizer.eos_token_id]
    assert encoded["assistant_masks"] == [0] * len(prompt) + [1] * (len(target) + 1)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == tokenizer.build_prompt(query, history) + f"[gMASK]<sop>{answer}<eop>"


def test_training_form_of_the_fine_tuning_script() -> None:
    tokenizer, compared = golden("v1.0"), 0
    for case in expected("v1.0")["ptuning_train_features"]:
        ids = tokenizer.apply_chat_template([user(case["prompt"]), assistant(case["response"])])["input_ids"]
        start = ids.index(tokenizer.bos_token_id)
        if start <= case["max_source_length"] and len(ids) - start <= case["max_target_length"]:
            assert case["input_ids"][: len(ids)] == ids
            assert set(case["input_ids"][len(ids) :]) <= {tokenizer.pad_token_id}
            compared += 1
    assert compared >= 2


def test_an_answer_can_be_continued() -> None:
    tokenizer = golden("v1.1")
    ids = tokenizer.apply_chat_template([user("你好"), assistant("你")], continue_final_message=True)["input_ids"]
    assert ids == [*published_ids(tokenizer, "你好", []), *tokenizer.encode_text("你")]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_opens_the_first_question(role: str) -> None:
    tokenizer = golden("v1.1")
    system = {"role": role, "content": "Be brief."}
    assert prompt_ids(tokenizer, [system, user("hi")]) == prompt_ids(tokenizer, [user("Be brief.\n\nhi")])
    later = [assistant("yes"), user("why")]
    assert prompt_ids(tokenizer, [system, user("hi"), *later]) == prompt_ids(
        tokenizer, [user("Be brief.\n\nhi"), *later]
    )


@pytest.mark.parametrize(
    "content",
    [{"type": "text", "text": "a b"}, [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}], ["a", " b"]],
)
def test_text_in_parts(content: Any) -> None:
    assert prompt_ids(golden("v1.1"), [user(content)]) == prompt_ids(golden("v1.1"), [user("a b")])


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([assistant("a")], 'Message 0 has the role "assistant" where "user"'),
        ([user("a"), user("b")], 'Message 1 has the role "user" where "assistant"'),
        ([user("a"), {"role": "tool", "content": "b"}], 'Message 1 has the role "tool"'),
        ([user("a"), {"role": "system", "content": "b"}], 'Message 1 has the role "system"'),
        ([{"content": "a"}], 'Message 0 has the role ""'),
        ([{"role": "system", "content": "a"}], "add a user message"),
        ([{"role": "system", "content": None}, user("b")], "Message 0 holds something else than text"),
        ([user("a"), assistant("b")], "it must be of the user"),
        ([user(None)], "Message 0 holds something else than text"),
        ([user(3)], "Message 0 holds something else than text"),
        ([user([{"type": "image_url", "image_url": {"url": "x"}}])], "this model reads text only"),
        ([user("a"), assistant([{"type": "text"}]), user("c")], "Message 1 holds something else than text"),
        ([], "empty conversation"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused(messages: list[Message], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        prompt_ids(golden("v1.1"), messages)


def test_refusals_are_errors_of_this_package() -> None:
    with pytest.raises(TokenizerError):
        prompt_ids(golden("v1.1"), [assistant("a")])


def test_batches_are_padded_with_masks_and_positions() -> None:
    tokenizer = golden("v1.0")
    batch = [[user("你好")], conversation("why", [("a", "b")])]
    encoded = tokenizer.apply_chat_template(batch, add_generation_prompt=True, padding=True, return_tensors="pt")
    texts = tokenizer.apply_chat_template(batch, add_generation_prompt=True, tokenize=False)
    wanted = tokenizer(texts, padding=True, return_tensors="pt")
    assert set(encoded) == {"input_ids", "attention_mask", "position_ids"}
    for key in wanted:
        assert torch.equal(encoded[key], wanted[key])


def test_tensors_of_one_conversation() -> None:
    tokenizer = golden("v1.1")
    messages = [user("你好"), assistant("你好！")]
    plain = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True)
    encoded = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_tensors="pt")
    assert encoded["input_ids"].tolist() == [plain["input_ids"]]
    assert encoded["assistant_masks"].tolist() == [plain["assistant_masks"]]
    assert prompt_ids(tokenizer, [user("你好")], return_tensors="pt").shape == (1, 3)


def test_masks_of_a_padded_batch_skip_the_padding() -> None:
    tokenizer = golden("v1.1")
    batch = [[user("a"), assistant("b")], [user("a longer question"), assistant("b")]]
    encoded = tokenizer.apply_chat_template(batch, padding=True, return_assistant_tokens_mask=True)
    answer = len(tokenizer.encode_text("b")) + 1
    for ids, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
        assert mask == [0] * (len(ids) - answer) + [1] * answer


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_cuts_the_context_and_keeps_the_frame(side: str) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(golden("v1.1").name_or_path, truncation_side=side)
    text = tokenizer.encode_text("one two three four")
    ids = prompt_ids(tokenizer, [user("one two three four")], truncation=True, max_length=5)
    assert ids == [*(text[:3] if side == "right" else text[-3:]), tokenizer.gmask_token_id, tokenizer.bos_token_id]
    assert ids == tokenizer("one two three four", truncation=True, max_length=5)["input_ids"]
    whole = prompt_ids(tokenizer, [user("one")], truncation=True, max_length=50)
    assert whole == prompt_ids(tokenizer, [user("one")])


def test_a_renderer_that_knows_no_gmask_token_writes_the_usual_one() -> None:
    tokenizer = golden("v1.1")
    texts, _ = render_jinja_template(
        [[user("a")]],
        chat_template=tokenizer.chat_template,
        add_generation_prompt=True,
        **tokenizer.special_tokens_map,
    )
    assert texts == ["a[gMASK]<sop>"]


def test_another_template_may_write_the_same_control_tokens() -> None:
    template = "{{ messages[0].content }}{{ gmask_token }}{{ bos_token }}x{{ eos_token }}[gMASK]"
    tokenizer = golden("v1.1")
    ids = tokenizer.apply_chat_template([user("<eop>")], chat_template=template)["input_ids"]
    frame = [tokenizer.gmask_token_id, tokenizer.bos_token_id]
    tail = [*tokenizer.encode_text("x"), tokenizer.eos_token_id, *tokenizer.encode_text("[gMASK]")]
    assert ids == [*tokenizer.encode_text("<eop>"), *frame, *tail]


# ---- what would vanish

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


@pytest.mark.parametrize("tokenize", [False, True])
@pytest.mark.parametrize(("name", "value"), [("tools", [TOOL]), ("documents", [{"title": "a", "text": "b"}])])
def test_tools_and_documents_are_refused(name: str, value: Any, tokenize: bool) -> None:
    tokenizer = golden(VERSIONS[0])
    options: dict[str, Any] = {name: value, "tokenize": tokenize}
    with pytest.raises(TokenizerError, match=f"^{name}: "):
        tokenizer.apply_chat_template([user("hi")], **options)
    options[name] = []
    tokenizer.apply_chat_template([user("hi")], **options)


def test_a_template_that_uses_tools_gets_them() -> None:
    text = golden(VERSIONS[0]).apply_chat_template(
        [user("hi")], tools=[TOOL], chat_template="{{ tools[0].function.name }}", tokenize=False
    )
    assert text == "weather"


def test_tool_calls_are_refused() -> None:
    messages = [user("hi"), {**assistant("see"), "tool_calls": [TOOL]}, user("and?")]
    with pytest.raises(TokenizerError, match="Message 1 has tool_calls"):
        golden(VERSIONS[0]).apply_chat_template(messages, tokenize=False)


def test_offsets_are_refused() -> None:
    tokenizer = golden(VERSIONS[0])
    for call in (tokenizer, tokenizer.encode):
        for text in ("hi", ["hi", "there"]):
            with pytest.raises(UnsupportedError, match="return_offsets_mapping"):
                call(text, return_offsets_mapping=True)
            call(text, return_offsets_mapping=False)


# ---- the published history


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([user("hi")], "entry 0 is a dict with 'role', 'content'"),
        ([("q", "a"), user("hi")], "entry 1 is a dict"),
        (["q", "a"], "entry 0 is a text"),
        ([["q"]], r"entry 0 is a list of 1 \(str\)"),
        ([("q", "a", "b")], r"entry 0 is a tuple of 3"),
        ([("q", None)], r"entry 0 is a tuple of 2 \(str, NoneType\)"),
        ([(1, 2)], r"\(int, int\)"),
        ("ab", "this is a text"),
        ({"q": "a"}, "this is a dict with 'q'"),
        (3, "this is of type int"),
    ],
)
def test_a_history_of_no_pairs(version: str, history: Any, words: str) -> None:
    with pytest.raises(TokenizerError, match=rf"pairs of texts.*{words}.*apply_chat_template"):
        golden(version).build_prompt("q", history)


@pytest.mark.parametrize("query", [[user("hi")], None, 3])
def test_a_query_of_no_text(query: Any) -> None:
    with pytest.raises(TokenizerError, match=r"query must be a text.*apply_chat_template"):
        golden(VERSIONS[0]).build_prompt(query)


def test_pairs_of_any_kind() -> None:
    tokenizer = golden(VERSIONS[0])
    wanted = tokenizer.build_prompt("q", [("a", "b")])
    assert wanted == tokenizer.build_prompt("q", [["a", "b"]]) == tokenizer.build_prompt("q", (("a", "b"),))
    assert tokenizer.build_prompt("q", None) == tokenizer.build_prompt("q", ()) == "q"
