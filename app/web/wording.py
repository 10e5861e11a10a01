"""Hold all texts of the web page in English and Chinese.

Fixed texts reach the page through Gradio's own translation (`interface`). The server writes the others in the language
that the browser requests (`WORDS`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from ..names import WEB_COMMAND

if TYPE_CHECKING:
    from ..serving.conversation import ConversationError
    from ..serving.model_info import ModelInfo
    from ..serving.reply import Failed

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Words:
    """All texts in one language. Those named `page_...` are fixed; the server fills in the braces of others."""

    # The page
    page_greeting: str
    page_label: str
    page_message: str
    page_new_chat: str
    page_saved: str
    page_settings: str
    page_max_length: str
    page_max_length_info: str
    page_top_p: str
    page_top_p_info: str
    page_temperature: str
    page_temperature_info: str
    page_seed: str
    page_seed_info: str
    page_seed_random: str
    page_theme: str
    page_files: str
    page_export_json: str
    page_export_markdown: str
    page_import: str
    page_demo: str
    page_mistakes: str
    # The tabs, and the blank-filling tab
    page_tab_chat: str
    page_tab_fill: str
    page_fill_intro: str
    page_fill_text: str
    page_fill_placeholder: str
    page_fill_insert: str
    page_fill_button: str
    page_fill_stop: str
    page_fill_result: str
    page_fill_examples: str
    page_fill_settings: str
    page_strategy: str
    page_strategy_beams: str
    page_strategy_sampling: str
    page_strategy_greedy: str
    page_num_beams: str
    page_num_beams_info: str
    page_length_penalty: str
    page_length_penalty_info: str
    page_min_length: str
    page_min_length_info: str
    page_no_repeat: str
    page_no_repeat_info: str
    page_top_k: str
    page_top_k_info: str
    page_fill_length_info: str
    # The list of saved chats
    list_empty: str
    list_delete: str
    list_confirm: str
    list_full: str
    list_too_large: str
    # The status line below the conversation
    next_in_queue: str
    queued: str
    thinking: str
    writing: str
    trimmed: str
    trimmed_one: str
    stopped: str
    length: str
    length_full: str
    silent: str
    queue_full: str
    too_long: str
    too_long_full: str
    too_long_by: str
    memory: str
    closed: str
    failed: str
    refused: str
    seed: str
    import_failed: str
    # The status line of the blank-filling tab
    filling: str
    alternatives: str
    blank: str
    fill_nothing: str
    fill_no_blank: str
    fill_no_text: str
    fill_too_many: str
    fill_too_long: str
    fill_unknown_mask: str
    fill_length: str


EN = Words(
    page_greeting="# Hello!\n\nAsk me something, or start with one of these.",
    page_label="Message",
    page_message="Message (Shift+Enter: new line)",
    page_new_chat="New chat",
    page_saved="Chats",
    page_settings="How it answers",
    page_max_length="Maximum length",
    page_max_length_info="Tokens of the conversation and its answer together",
    page_top_p="Top-p",
    page_top_p_info="Choose among the likeliest tokens that hold this share of the probability",
    page_temperature="Temperature",
    page_temperature_info="0: always the likeliest token; higher: more surprises",
    page_seed="Seed",
    page_seed_info="Empty: a new answer every time; a number: the same one again",
    page_seed_random="random",
    page_theme="Light or dark",
    page_files="Export and import",
    page_export_json="Export as JSON",
    page_export_markdown="Export as Markdown",
    page_import="Import a chat",
    page_demo="This is the small demo model that comes with the program. "
    f"For ChatGLM-6B start it with `{WEB_COMMAND} --model FOLDER`",
    page_mistakes="The model makes mistakes. Check what matters.",
    page_tab_chat="Chat",
    page_tab_fill="Fill in the blanks",
    page_fill_intro="Write `[MASK]` where words are missing: the model reads the text on both sides and fills them in. "
    "A text without a blank is continued.",
    page_fill_text="Text with blanks",
    page_fill_placeholder="The capital of [MASK] is Paris.",
    page_fill_insert="Insert a [MASK]",
    page_fill_button="Fill in",
    page_fill_stop="Stop",
    page_fill_result="Filled text",
    page_fill_examples="Examples",
    page_fill_settings="How it fills",
    page_strategy="Choice of words",
    page_strategy_beams="Beam search",
    page_strategy_sampling="Sampling",
    page_strategy_greedy="Greedy",
    page_num_beams="Beams",
    page_num_beams_info="Answers that are followed side by side; all are shown",
    page_length_penalty="Length penalty",
    page_length_penalty_info="Above 0 favours long answers, below 0 short ones",
    page_min_length="Minimum length",
    page_min_length_info="Tokens that an answer has at least",
    page_no_repeat="No repeated runs",
    page_no_repeat_info="So many tokens in a row never come twice; 0: off",
    page_top_k="Top-k",
    page_top_k_info="Choose among so many of the likeliest tokens; 0: all",
    page_fill_length_info="Tokens of the whole text, blanks filled",
    list_empty="Chats are kept here, in your browser alone.",
    list_delete="Delete this chat",
    list_confirm="Delete this chat? This cannot be undone.",
    list_full="The browser has no room left to save chats. Delete or export some.",
    list_too_large="This file is too large for a conversation.",
    next_in_queue="In the queue: next in line",
    queued="In the queue: {count} before you",
    thinking="Thinking",
    writing="Writing",
    trimmed="The conversation is long: the model no longer sees its first {count} rounds.",
    trimmed_one="The conversation is long: the model no longer sees its first round.",
    stopped="Stopped.",
    length="Cut off: the maximum length of {count} tokens is reached. It can be raised under “How it answers”.",
    length_full="Cut off: the conversation fills the {count} tokens that the model can hold. Start a new chat.",
    silent="The model had nothing to say. Try to ask in another way.",
    queue_full="The queue is full: {count} waiting already. Please try again in a moment.",
    too_long="This message is too long for the model. Shorten it, or raise the maximum length under “How it answers”.",
    too_long_full="This message is too long for the model. Shorten it.",
    too_long_by=" It has {tokens} tokens; {limit} fit.",
    memory="The machine ran out of memory for this answer. Start a new chat, shorten the message or lower the "
    "maximum length.",
    closed="The program is shutting down.",
    failed="The model failed while answering. Whoever runs it finds the reason in the log.",
    refused="This cannot be answered: {reason}.",
    seed="The seed must be a whole number from 0 to {most}, or nothing.",
    import_failed="This file could not be imported: {reason}.",
    filling="Filling blank {blank} of {count}",
    alternatives="Alternatives with their scores (higher: likelier)",
    blank="Blank {number}",
    fill_nothing="(nothing)",
    fill_no_blank="There was no blank, so the text was continued.",
    fill_no_text="There is no text yet. Write one with a [MASK] in it, or choose an example.",
    fill_too_many="The text has {count} blanks; at most {limit} can be filled. Split it.",
    fill_too_long="This text is too long for the model. Shorten it.",
    fill_unknown_mask="This model knows no [sMASK]. Write [MASK] instead.",
    fill_length="Cut off: the maximum length is reached. See “How it fills”.",
)

ZH = Words(
    page_greeting="# 你好！\n\n问我一个问题，或者从下面的例子开始。",
    page_label="消息",
    page_message="输入消息（Shift+回车换行）",
    page_new_chat="新对话",
    page_saved="对话",
    page_settings="回答方式",
    page_max_length="最大长度",
    page_max_length_info="对话与回答合计的词元数",
    page_top_p="Top-p",
    page_top_p_info="只在累计概率达到此值的最可能词元中选取",
    page_temperature="温度",
    page_temperature_info="0：总取最可能的词元；越高越多变",
    page_seed="随机种子",
    page_seed_info="留空：每次回答不同；填数字：可重复同一回答",
    page_seed_random="随机",
    page_theme="浅色或深色",
    page_files="导出与导入",
    page_export_json="导出为 JSON",
    page_export_markdown="导出为 Markdown",
    page_import="导入对话",
    page_demo=f"这是随程序附带的小型演示模型。要使用 ChatGLM-6B，请这样启动：`{WEB_COMMAND} --model 模型文件夹`",
    page_mistakes="模型会出错，重要内容请核实。",
    page_tab_chat="聊天",
    page_tab_fill="填空",
    page_fill_intro="在缺少词语的地方写上 `[MASK]`：模型会读取前后两侧的文字，把空填上。没有空的文本会被续写。",
    page_fill_text="带空的文本",
    page_fill_placeholder="[MASK]的首都是巴黎。",
    page_fill_insert="插入 [MASK]",
    page_fill_button="填空",
    page_fill_stop="停止",
    page_fill_result="填好的文本",
    page_fill_examples="示例",
    page_fill_settings="填空方式",
    page_strategy="选词方法",
    page_strategy_beams="束搜索",
    page_strategy_sampling="采样",
    page_strategy_greedy="贪心",
    page_num_beams="束数",
    page_num_beams_info="同时保留的答案数，全部列出",
    page_length_penalty="长度惩罚",
    page_length_penalty_info="大于 0 偏好长答案，小于 0 偏好短答案",
    page_min_length="最小长度",
    page_min_length_info="每个答案至少的词元数",
    page_no_repeat="禁止重复片段",
    page_no_repeat_info="连续这么多词元不会出现两次；0：不限制",
    page_top_k="Top-k",
    page_top_k_info="只在这么多个最可能的词元中选取；0：不限制",
    page_fill_length_info="整段文本（填好后）的词元数",
    list_empty="对话保存在这里，只存于你的浏览器。",
    list_delete="删除此对话",
    list_confirm="删除此对话？删除后无法恢复。",
    list_full="浏览器没有空间保存对话了，请删除或导出一些。",
    list_too_large="这个文件太大，不像是一段对话。",
    next_in_queue="排队中：下一个就是你",
    queued="排队中：前面还有 {count} 位",
    thinking="思考中",
    writing="回答中",
    trimmed="对话较长，模型已看不到最早的 {count} 轮。",
    trimmed_one="对话较长，模型已看不到最早的 1 轮。",
    stopped="已停止。",
    length="回答被截断：已达到最大长度 {count} 个词元，可在“回答方式”中调大。",
    length_full="回答被截断：对话已占满模型的 {count} 个词元，请开始新对话。",
    silent="模型没有给出内容，换个问法试试。",
    queue_full="排队已满（{count} 人），请稍后再试。",
    too_long="这条消息太长，模型放不下。请缩短它，或在“回答方式”中调大最大长度。",
    too_long_full="这条消息太长，模型放不下，请缩短它。",
    too_long_by="它有 {tokens} 个词元，最多 {limit} 个。",
    memory="机器内存不足，无法完成这次回答。请开始新对话、缩短消息，或调小最大长度。",
    closed="程序正在关闭。",
    failed="模型回答时出错，原因记录在运行者的日志里。",
    refused="无法回答：{reason}。",
    seed="随机种子应为 0 到 {most} 的整数，或留空。",
    import_failed="无法导入此文件：{reason}。",
    filling="正在填第 {blank} 个空，共 {count} 个",
    alternatives="候选答案及得分（越高越可能）",
    blank="第 {number} 个空",
    fill_nothing="（空）",
    fill_no_blank="文本中没有空，因此作了续写。",
    fill_no_text="还没有文本。请写一段带 [MASK] 的文字，或选择一个示例。",
    fill_too_many="文本中有 {count} 个空，最多能填 {limit} 个，请拆分。",
    fill_too_long="这段文本太长，模型放不下，请缩短它。",
    fill_unknown_mask="此模型没有 [sMASK]，请改用 [MASK]。",
    fill_length="已达到最大长度，文本被截断，请见“填空方式”。",
)

# The Chinese reasons by ConversationError.kind (serving/conversation.py); the English one is the error's message.
CHINESE_REASONS: Mapping[str, str] = {
    "list": "其中的 messages 不是列表",
    "message": "第 {number} 条消息不是带有 role 和 content 的对象",
    "role": "第 {number} 条消息的 role 应为 user 或 assistant，而不是 {role}",
    "content": "第 {number} 条消息的 content 不是文本",
    "json": "这不是有效的 JSON（第 {line} 行）",
    "format": "这个 JSON 不是保存的对话（没有 format：{format}）",
    "version": "这里只认识版本 {known}，不认识 {version}",
    "size": "文件有 {count} 个字符，最多读取 {limit} 个",
    "heading": "保存的对话以“## User”或“## Assistant”一行开头",
    "empty": "其中没有消息",
}

WORDS: Mapping[Language, Words] = {"en": EN, "zh": ZH}

DEMO_EXAMPLES: Mapping[Language, tuple[str, ...]] = {
    "en": ("Who are you?", "What is 17 + 25?", "What is the capital of France?", "What is GLM-130B?"),
    "zh": ("你是谁？", "17 + 25 等于多少？", "法国的首都是哪里？", "GLM-130B 是什么？"),
}
EXAMPLES: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "Explain what a prefix language model is.",
        "Write a Python function that checks whether a text is a palindrome.",
        "How do I fall asleep when I keep thinking about work?",
        "Write a short poem about autumn.",
    ),
    "zh": (
        "用简单的话解释一下什么是预训练语言模型。",
        "用 Python 写一个判断回文的函数。",
        "晚上睡不着应该怎么办？",
        "写一首关于秋天的小诗。",
    ),
}

DEMO_BLANKS: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "The capital of [MASK] is Paris.",
        "After Monday comes [MASK].",
        "The opposite of hot is [MASK].",
        "5, 6, [MASK], 8, 9.",
    ),
    "zh": (
        "[MASK]的首都是巴黎。",
        "星期一的后面是[MASK]。",
        "“热”的反义词是“[MASK]”。",
        "我们知道，5 + 7 = [MASK]。",
    ),
}
# The first example of each language is from GLM-130B's README.
BLANKS: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "Ng is an adjunct professor at [MASK] (formerly associate professor and Director of its Stanford AI Lab or "
        "SAIL). Also a pioneer in online education, Ng co-founded Coursera and deeplearning.ai.",
        "The capital of [MASK] is Paris, and the capital of [MASK] is Rome.",
        "Once upon a time there was a small robot who",
    ),
    "zh": (
        "凯旋门位于意大利米兰市古城堡旁。1807年为纪念[MASK]而建，门高25米，顶上矗立两武士青铜古兵车铸像。",
        "李白是[MASK]代著名诗人，杜甫也生活在[MASK]代。",
        "从前有一个小机器人，",
    ),
}
_MASK = re.compile(r"\[[sg]?MASK\]")


def has_blank(text: str) -> bool:
    """Return whether a text contains a mask token of any kind."""
    return _MASK.search(text) is not None


def pick_language(setting: str, accepted: str | None) -> Language:
    """Return the language for a browser: the server's `--language`, or for "auto" the browser's first choice.

    Args:
        setting: "auto", "en" or "zh".
        accepted: the Accept-Language header, in the browser's order of preference.
    """
    wanted = (accepted or "").strip().lower() if setting == "auto" else setting
    return "zh" if wanted.startswith("zh") else "en"


def interface(setting: str) -> dict[str, dict[str, str]]:
    """Return the fixed texts by Gradio's locales. A `setting` other than "auto" gives all locales one language."""
    english = pick_language(setting, "en")
    chinese = pick_language(setting, "zh")
    return {"en": _page(english), "zh-CN": _page(chinese), "zh-TW": _page(chinese)}


def _page(language: Language) -> dict[str, str]:
    return _fields(language, "page_")


def list_words(language: Language) -> dict[str, str]:
    """Return the texts of the list of saved chats, for the page's script."""
    return _fields(language, "list_")


def _fields(language: Language, prefix: str) -> dict[str, str]:
    words = WORDS[language]
    return {each.name: getattr(words, each.name) for each in fields(words) if each.name.startswith(prefix)}


def examples(model: ModelInfo, language: Language) -> tuple[str, ...]:
    """Return example questions; for the demo model, questions that it can answer."""
    return (DEMO_EXAMPLES if model.is_demo else EXAMPLES)[language]


def fill_examples(model: ModelInfo, language: Language) -> tuple[str, ...]:
    """Return example texts with blanks; for the demo model, texts that it can fill."""
    return (DEMO_BLANKS if model.is_demo else BLANKS)[language]


def describe(model: ModelInfo) -> str:
    """Return one line on the model: name, size, quantization, device. It is the same in both languages."""
    parts = [model.name, _size(model.parameters), model.quantization or "", model.device]
    return " · ".join(part for part in parts if part)


def _size(parameters: int) -> str:
    for factor, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= factor:
            return f"{parameters / factor:.3g}{letter}"
    return str(parameters)


def queue_line(words: Words, position: int) -> str:
    """Return the status line of a visitor who waits at `position` (1 = next)."""
    return words.next_in_queue if position == 1 else words.queued.format(count=position)


def trim_line(words: Words, rounds: int) -> str:
    """Return the notice that the model no longer sees the oldest `rounds`."""
    return words.trimmed_one if rounds == 1 else words.trimmed.format(count=rounds)


def length_line(words: Words, length: int, model: ModelInfo) -> str:
    """Return the notice that an answer was cut at `length` tokens, with the remedy."""
    return (words.length if length < model.context_length else words.length_full).format(count=length)


def too_long_line(words: Words, length: int, model: ModelInfo) -> str:
    """Return the notice that a message does not fit into `length` tokens, with the remedy."""
    return words.too_long if length < model.context_length else words.too_long_full


def import_line(words: Words, error: ConversationError) -> str:
    """Return the reason why a file cannot be imported."""
    chinese = CHINESE_REASONS.get(error.kind) if words is ZH else None
    return words.import_failed.format(reason=chinese.format(**error.values) if chinese else error)


def failure_line(words: Words, failed: Failed, length: int, model: ModelInfo) -> str:
    """Return the reason why there is no answer. The engine's own English message is not shown."""
    if failed.kind == "too_long":
        by = words.too_long_by.format(tokens=failed.tokens, limit=failed.limit)
        return too_long_line(words, length, model) + by
    return {"memory": words.memory, "closed": words.closed}.get(failed.kind, words.failed)


def fill_failure_line(words: Words, failed: Failed) -> str:
    """Return the reason why a text was not filled."""
    match failed.kind:
        case "no_text":
            return words.fill_no_text
        case "too_many_blanks":
            return words.fill_too_many.format(count=failed.tokens, limit=failed.limit)
        case "too_long":
            return words.fill_too_long + words.too_long_by.format(tokens=failed.tokens, limit=failed.limit)
        case "unknown_mask":
            return words.fill_unknown_mask
        case "memory" | "closed" as known:
            return {"memory": words.memory, "closed": words.closed}[known]
    return words.failed
