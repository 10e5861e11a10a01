"""Turn OpenAI-style messages into ids with a chat template, so that no message can inject a control token.

transformers encodes the rendered template as one text, in which a user's text and the template's own look the same.
Here the template is rendered with random marks that no message can contain, and only these become control tokens.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils import to_py_obj

from ..errors import TokenizerError

# The same prompt for OpenAI-style messages; the one place that knows which messages are accepted.
# - GLM of the first generation has no system role. A leading system (or developer) message opens the first question,
#   which is how these models were given instructions, rather than failing clients that always send one.
# - A last assistant message is an answer to learn or to continue: it stands behind [gMASK] <sop> and ends in <eop>.
#   Earlier answers are context, as in the published fine-tuning script.
CHAT_TEMPLATE = """\
{%- macro text_of(content, number) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content is mapping and content.type == 'text' and content.text is string -%}
        {{- content.text -}}
    {%- elif content is defined and content is sequence and content is not mapping -%}
        {%- for part in content -%}{{- text_of(part, number) -}}{%- endfor -%}
    {%- else -%}
        {{- raise_exception('Message ' ~ number ~ ' holds something else than text: this model reads text only.') -}}
    {%- endif -%}
{%- endmacro -%}
{%- set answer_start = gmask_token | default('[gMASK]') ~ bos_token -%}
{%- set skipped = 1 if messages[0].role in ('system', 'developer') else 0 -%}
{%- set turns = messages[skipped:] -%}
{%- if not turns -%}
    {{- raise_exception('A system message alone asks nothing: add a user message.') -}}
{%- endif -%}
{%- for message in turns -%}
    {%- set number = loop.index0 + skipped -%}
    {%- set expected = 'assistant' if loop.index0 % 2 else 'user' -%}
    {%- if message.role != expected -%}
        {{- raise_exception('Message ' ~ number ~ ' has the role "' ~ message.role ~ '" where "' ~ expected
            ~ '" is expected: after an optional system message, user and assistant take turns.') -}}
    {%- endif -%}
    {%- if message.tool_calls -%}
        {{- raise_exception('Message ' ~ number ~ ' has tool_calls: this model cannot call functions.') -}}
    {%- endif -%}
    {%- set text = text_of(message.content, number) -%}
    {%- if message.role == 'user' -%}
        {%- if turns | length > 2 -%}
            {{- '[Round ' ~ loop.index0 // 2 ~ ']\\n问：' -}}
        {%- endif -%}
        {%- if skipped and loop.first -%}
            {{- text_of(messages[0].content, 0) ~ '\\n\\n' -}}
        {%- endif -%}
        {{- text -}}
        {%- if turns | length > 2 and (add_generation_prompt or not loop.last) -%}
            {{- '\\n答：' -}}
        {%- endif -%}
        {%- if loop.last and add_generation_prompt -%}
            {{- answer_start -}}
        {%- endif -%}
    {%- elif not loop.last -%}
        {{- text ~ '\\n' -}}
    {%- elif add_generation_prompt -%}
        {{- raise_exception('The last message is an answer already: to be answered, it must be of the user.') -}}
    {%- else -%}
        {{- answer_start -}}
        {%- generation -%}
            {{- text ~ eos_token -}}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
"""


class ChatTemplateMixin(PreTrainedTokenizerBase):
    """`apply_chat_template` for a tokenizer with `encode_text`, `gmask_token` and `gmask_token_id`."""

    gmask_token: str

    @property
    def gmask_token_id(self) -> int:
        """The id of `[gMASK]`."""
        raise NotImplementedError

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of text alone, without any control token."""
        raise NotImplementedError

    def apply_chat_template(
        self,
        conversation: Any,
        tools: list[Any] | None = None,
        documents: list[dict[str, str]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        *,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Return the ids or the text of messages in the published format; arguments and results are transformers'.

        Only the template writes control tokens: "[MASK]" or "<sop>" typed in a message stays ordinary text, unlike in
        the published `tokenizer(prompt)`. For messages that hold none of them the ids are the same.

        With `tokenize=False` a prompt to be answered comes without its `[gMASK] <sop>`, because `tokenizer(prompt)`
        adds them and does not recognise `[gMASK]` in text.

        Args:
            add_generation_prompt: whether to end in `[gMASK] <sop>`, for the model to answer.
            truncation: whether to shorten the text before `[gMASK]` to `max_length` ids in all.
            return_assistant_tokens_mask: whether to add "assistant_masks", 1 for the last answer and its `<eop>`.
            sanitize_control_tokens: ignored; control tokens in messages are always sanitized.

        Raises:
            TokenizerError: an unknown role, a turn out of order, or content that is not text; tools or documents that
                the template does not use.
        """
        self._refuse_unused(tools=tools, documents=documents, template=chat_template)
        template = {
            "tools": tools,
            "documents": documents,
            "chat_template": chat_template,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            **kwargs,
        }
        if not tokenize:
            start = ("", "") if add_generation_prompt else (self.gmask_token, str(self.bos_token))
            return self._rendered(conversation, (*start, str(self.eos_token)), template)
        marks = {
            secrets.token_hex(16): token_id for token_id in (self.gmask_token_id, self.bos_token_id, self.eos_token_id)
        }
        rendered = self._rendered(conversation, tuple(marks), template)
        encoding = self(
            self._marked_to_ids(rendered, marks, max_length if truncation else None),
            add_special_tokens=False,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
            **(tokenizer_kwargs or {}),
        )
        if return_assistant_tokens_mask:
            encoding["assistant_masks"] = self._answer_masks(encoding["input_ids"])
            encoding.convert_to_tensors(return_tensors)
        return encoding if return_dict else encoding["input_ids"]

    def _refuse_unused(self, template: str | None, **given: Any) -> None:
        """Raise TokenizerError if tools or documents are given to a template that would drop them without a word."""
        used = template or self.chat_template
        for name, value in given.items():
            if value and isinstance(used, str) and name not in used:
                raise TokenizerError(
                    f"{name}: GLM of the first generation was not trained with {name}, and its chat template has no "
                    f"place for them. Leave {name} out, or write what they say into a message."
                )

    def _rendered(
        self, conversation: Any, control_tokens: tuple[str, ...], template: dict[str, Any]
    ) -> str | list[str]:
        gmask_token, bos_token, eos_token = control_tokens
        try:
            rendered: str | list[str] = super().apply_chat_template(
                conversation,
                tokenize=False,
                gmask_token=gmask_token,
                bos_token=bos_token,
                eos_token=eos_token,
                **template,
            )
        except TemplateError as error:
            raise TokenizerError(str(error)) from error
        return rendered

    def _marked_to_ids(self, text: str | list[str], marks: dict[str, int], limit: int | None) -> list[Any]:
        """Return the ids of a rendered template; if there are more than `limit`, cut the context before `[gMASK]`."""
        if isinstance(text, list):
            return [self._marked_to_ids(one, marks, limit) for one in text]
        parts = re.split(f"({'|'.join(marks)})", text)
        ids = [token_id for part in parts for token_id in self._part_to_ids(part, marks)]
        if limit is None or len(ids) <= limit or self.gmask_token_id not in ids:
            return ids
        context = ids.index(self.gmask_token_id)
        kept = max(0, limit - (len(ids) - context))
        start = context - kept if self.truncation_side == "left" else 0
        return ids[start : start + kept] + ids[context:]

    def _part_to_ids(self, part: str, marks: dict[str, int]) -> list[int]:
        return [marks[part]] if part in marks else self.encode_text(part)

    def _answer_masks(self, input_ids: Any) -> list[Any]:
        """Return 1 for every id after the first `<sop>` and 0 for the others, in the shape of `input_ids`."""
        ids = to_py_obj(input_ids)
        if ids and isinstance(ids[0], list):
            return [self._answer_masks(row) for row in ids]
        prompt = ids.index(self.bos_token_id) + 1 if self.bos_token_id in ids else len(ids)
        return [0] * prompt + [1] * (len(ids) - prompt)
