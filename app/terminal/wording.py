"""Hold all texts of the terminal front-end in English and Chinese, and select the language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..names import TERMINAL_COMMAND


@dataclass(frozen=True)
class Words:
    """All texts of the terminal in one language; names in braces are filled in with `str.format`."""

    loading: str
    cannot_load: str
    banner: str
    demo: str
    keys: str
    you: str
    glm: str
    stopped: str
    trimmed: str
    cut: str
    empty: str
    waiting: str
    failed_long: str
    raised_by: str
    failed_memory: str
    failed: str
    cannot_print: str
    no_message: str
    type_message: str
    leave_hint: str
    help_title: str
    help_clear: str
    help_stop: str
    help_retry: str
    help_set: str
    help_save: str
    help_load: str
    help_help: str
    help_keys: str
    cleared: str
    nothing_to_retry: str
    nothing_to_save: str
    saved: str
    loaded: str
    cannot_save: str
    cannot_read: str
    overwrite: str
    needs_file: str
    unknown: str
    settings: str
    set_usage: str
    set_done: str
    set_wrong: str


ENGLISH = Words(
    loading="Loading the model ...",
    cannot_load="The model cannot be loaded: {reason}",
    banner="{name} · {size} parameters · {device}",
    demo=(
        "This is the small demo model that comes with the program: it shows how everything works and knows "
        "very little. To talk to ChatGLM-6B, give the folder of its checkpoint:\n"
        f"  {TERMINAL_COMMAND} --model FOLDER"
    ),
    keys="Enter sends, Alt+Enter starts a new line, Ctrl-C stops an answer; /help shows more, stop leaves.",
    you="You: ",
    glm="GLM:",
    stopped="(stopped)",
    trimmed="(The conversation has grown long: its {rounds} oldest round(s) were left out.)",
    cut="(Cut at the maximum length of {max_length} tokens.{more})",
    empty="(The model gave an empty answer.)",
    waiting="...",
    failed_long="This message is too long: {tokens} tokens, where at most {limit} fit. Please shorten it.{more}",
    raised_by=" {how} raises the maximum.",
    failed_memory="The machine ran out of memory for this answer. Try a shorter message, or clear.",
    failed="{message} (log: {log})",
    cannot_print="The answer cannot be written: {reason}",
    no_message="There is no message: standard input is empty.",
    type_message="Type the message and end it with Ctrl-D on a line of its own.",
    leave_hint="(stop, /quit or Ctrl-D leaves)",
    help_title="Commands",
    help_clear="forget the conversation and start anew (also: clear)",
    help_stop="leave (also: stop, /quit, Ctrl-D)",
    help_retry="answer the last message again",
    help_set="change a setting of the answers, e.g. /set temperature 0.5; alone: show them",
    help_save="save the conversation, as Markdown if the name ends in .md, else as JSON",
    help_load="go on with a saved conversation",
    help_help="show this",
    help_keys=(
        "Keys: Enter sends; Alt+Enter or Ctrl-J starts a new line; arrows move and recall earlier messages; "
        "Tab completes commands; Ctrl-C stops an answer or empties the line; Ctrl-D leaves. "
        "A message that begins with / is sent if a space stands before it."
    ),
    cleared="(A new conversation.)",
    nothing_to_retry="There is no message to answer again yet.",
    nothing_to_save="There is no conversation to save yet.",
    saved="Saved {count} messages to {file}.",
    loaded="Loaded {count} messages from {file}; the conversation goes on.",
    cannot_save="{file} cannot be written: {reason}",
    cannot_read="{file} cannot be read: {reason}",
    overwrite="{file} exists already. Overwrite it? (y/n) ",
    needs_file="Say which file: {command} FILE",
    unknown="There is no command {command}; see /help. To send it as a message, put a space before it.",
    settings="Settings of the answers (/set NAME VALUE changes one):",
    set_usage="Say /set NAME VALUE, where NAME is one of {names}.",
    set_done="{name} is now {value}.",
    set_wrong="{name}: {value} is not {allowed}.",
)

CHINESE = Words(
    loading="正在加载模型……",
    cannot_load="无法加载模型：{reason}",
    banner="{name} · {size} 参数 · {device}",
    demo=(
        "这是程序自带的小型演示模型：它用来展示各项功能，懂得很少。"
        f"要与 ChatGLM-6B 对话，请给出其模型文件夹：\n  {TERMINAL_COMMAND} --model 文件夹"
    ),
    keys="回车发送，Alt+回车换行，Ctrl-C 停止回答；/help 查看其他命令，stop 退出。",
    you="用户：",
    glm="GLM：",
    stopped="（已停止）",
    trimmed="（对话过长，已略去最早的 {rounds} 轮。）",
    cut="（已达到最大长度 {max_length} 个词元。{more}）",
    empty="（模型没有给出内容。）",
    waiting="……",
    failed_long="这条消息太长：{tokens} 个词元，最多只能有 {limit} 个。请缩短。{more}",
    raised_by="可用 {how} 调大最大长度。",
    failed_memory="内存不足，无法完成这个回答。请缩短消息，或输入 clear 重新开始。",
    failed="出错了：{message}（日志：{log}）",
    cannot_print="无法写出回答：{reason}",
    no_message="没有消息：标准输入是空的。",
    type_message="请输入消息，最后在单独一行按 Ctrl-D 结束。",
    leave_hint="（输入 stop、/quit 或按 Ctrl-D 退出）",
    help_title="命令",
    help_clear="清空对话，重新开始（也可输入 clear）",
    help_stop="退出（也可输入 stop、/quit 或按 Ctrl-D）",
    help_retry="重新回答上一条消息",
    help_set="修改回答的设置，例如 /set temperature 0.5；单独使用则显示当前设置",
    help_save="保存对话：文件名以 .md 结尾存为 Markdown，否则存为 JSON",
    help_load="读取保存的对话并继续",
    help_help="显示本说明",
    help_keys=(
        "按键：回车发送；Alt+回车或 Ctrl-J 换行；方向键移动光标、调出以前的消息；Tab 补全命令；"
        "Ctrl-C 停止回答或清空输入；Ctrl-D 退出。要发送以 / 开头的消息，请在前面加一个空格。"
    ),
    cleared="（已开始新的对话。）",
    nothing_to_retry="还没有可以重新回答的消息。",
    nothing_to_save="还没有可以保存的对话。",
    saved="已将 {count} 条消息保存到 {file}。",
    loaded="已从 {file} 读取 {count} 条消息，对话继续。",
    cannot_save="无法写入 {file}：{reason}",
    cannot_read="无法读取 {file}：{reason}",
    overwrite="{file} 已存在，要覆盖吗？(y/n) ",
    needs_file="请指明文件：{command} 文件",
    unknown="没有 {command} 这个命令；/help 列出所有命令。若要当作消息发送，请在前面加一个空格。",
    settings="回答的设置（用 /set 名称 值 修改）：",
    set_usage="用法：/set 名称 值，名称是 {names} 之一。",
    set_done="{name} 已设为 {value}。",
    set_wrong="{name}：{value} 无效，应为 {allowed}。",
)


def speak(language: str, environment: Mapping[str, str]) -> Words:
    """Return the texts for `--language`; "auto" follows the locale variables in the order that POSIX defines."""
    if language == "auto":
        ranked = (environment.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
        language = next((name for name in ranked if name), "")
    return CHINESE if language.lower().startswith("zh") else ENGLISH
