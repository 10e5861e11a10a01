"""Chats saved in the visitor's own browser, and as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.serving.conversation import Message, from_json, from_markdown, to_json
from app.web.wording import EN, ZH, Words
from tests.app.sites import Site
from tests.browser.conftest import Visitor

Visit = Callable[..., Visitor]

MARKUP = "What do <b>vector<int></b> and vec![1, 2] <!-- mean -->?"


def test_a_chat_survives_a_reload(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask(MARKUP)
    visitor.open(site.url)
    expect(visitor.answers).to_have_count(1)
    assert read(visitor) == [MARKUP, f"You said: {MARKUP}"]
    assert visitor.ask("and now?") == "You said: and now?"
    assert site.stream.prompts[-1].startswith(MARKUP)
    expect(visitor.chats).to_have_count(1)


def read(visitor: Visitor) -> list[str]:
    """The conversation as it would be copied."""
    messages = visitor.page.locator("#transcript .message").all_inner_texts()
    return [text.replace("\N{WORD JOINER}", "").strip() for text in messages]


def test_chats_are_listed_opened_and_deleted(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("apples")
    visitor.page.locator("#new-chat").click()
    expect(visitor.questions).to_have_count(0)
    visitor.ask("pears")
    expect(visitor.chats.locator(".open")).to_have_text(["pears", "apples"])

    visitor.chats.filter(has_text="apples").locator(".open").click()
    expect(visitor.questions).to_have_text(["apples"])
    assert visitor.ask("more") == "You said: more"
    expect(visitor.chats.locator(".open")).to_have_text(["apples", "pears"])

    visitor.says_yes = True
    delete(visitor, "pears")
    expect(visitor.chats.locator(".open")).to_have_text(["apples"])
    expect(visitor.questions).to_have_text(["apples", "more"])
    delete(visitor, "apples")
    expect(visitor.chats).to_have_count(0)
    expect(visitor.questions).to_have_count(0)


def delete(visitor: Visitor, title: str) -> None:
    row = visitor.chats.filter(has_text=title)
    row.hover()
    row.locator(".delete").click()


@pytest.mark.parametrize(("locale", "words"), [("en-US", EN), ("zh-CN", ZH)])
def test_clearing_deletes_the_chat_once_agreed(site: Site, visit: Visit, locale: str, words: Words) -> None:
    visitor = visit(site.url, locale=locale)
    visitor.ask("apples")
    expect(visitor.chats).to_have_count(1)
    clear = visitor.page.locator("#transcript .top-panel button")  # its label is in Gradio's own translation

    clear.click()
    assert visitor.trouble == [f"dialog: {words.list_confirm}"]
    visitor.trouble.clear()
    visitor.page.wait_for_timeout(300)
    expect(visitor.questions).to_have_text(["apples"])
    expect(visitor.chats).to_have_count(1)

    visitor.says_yes = True
    clear.click()
    expect(visitor.questions).to_have_count(0)
    expect(visitor.chats).to_have_count(0)
    assert visitor.asked == [words.list_confirm]
    assert visitor.ask("pears") == "You said: pears"
    assert site.stream.prompts[-1] == "pears"


def test_clearing_what_another_tab_has_deleted_asks_nothing(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("apples")
    visitor.page.evaluate("localStorage.clear()")
    visitor.button("Clear").click()
    expect(visitor.questions).to_have_count(0)


def test_a_draft_outlives_a_look_at_a_saved_chat(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("apples")
    visitor.page.locator("#new-chat").click()
    expect(visitor.questions).to_have_count(0)
    visitor.box.fill("a draft")
    visitor.chats.locator(".open").click()
    expect(visitor.questions).to_have_text(["apples"])
    visitor.wait_until_idle()
    expect(visitor.box).to_have_value("a draft")


def test_another_chat_can_be_opened_while_one_is_being_answered(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("apples")
    visitor.page.locator("#new-chat").click()
    expect(visitor.questions).to_have_count(0)  # else the question goes to the chat that is still open
    gate = site.hold()
    visitor.type_and_send("pears")
    gate.release(4)
    expect(visitor.answers).to_have_text("You")
    visitor.chats.filter(has_text="apples").locator(".open").click()
    expect(visitor.answers).to_have_text("You said: apples")
    site.let_go()
    visitor.page.wait_for_timeout(300)
    visitor.wait_until_idle()
    expect(visitor.answers).to_have_text("You said: apples")
    visitor.chats.filter(has_text="pears").locator(".open").click()
    expect(visitor.questions).to_have_text(["pears"])
    expect(visitor.chats).to_have_count(2)


def test_an_answer_never_lands_in_another_chat(site: Site, visit: Visit) -> None:
    """The page changes chats while an answer comes in as fast as it can."""
    site.stream.answer = lambda question: f"{question} " * 200
    site.stream.delay = 0.001
    visitor = visit(site.url)
    for turn in range(4):
        visitor.type_and_send(f"q{turn}")
        expect(visitor.answers).to_have_count(1)
        visitor.page.wait_for_timeout(60 * turn)
        visitor.page.locator("#new-chat").click()
        expect(visitor.questions).to_have_count(0)
    expect(visitor.chats.locator(".open")).to_have_text([f"q{turn}" for turn in reversed(range(4))])
    kept = visitor.page.evaluate("Object.entries(localStorage).map(([key, chat]) => JSON.parse(chat))")
    for chat in kept:
        question, answer = (each["content"] for each in chat["messages"])
        assert question == chat["title"]
        assert site.stream.answer(question).startswith(answer)  # to wherever it was stopped


def test_two_tabs_do_not_overwrite_each_others_chats(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    tab = Visitor(visitor.context, visitor.context.new_page()).open(site.url)
    visitor.ask("apples")
    tab.ask("pears")
    visitor.ask("more apples")
    for each in (visitor, tab):
        expect(each.chats).to_have_count(2)
    tab.open(site.url)
    expect(tab.questions).to_have_text(["pears"])


def test_chats_stay_in_the_browser_that_had_them(site: Site, visit: Visit) -> None:
    visit(site.url).ask("secret apples")
    stranger = visit(site.url)
    expect(stranger.chats).to_have_count(0)
    assert "secret" not in stranger.page.content()


def test_a_chat_cut_off_by_a_reload_asks_its_question_again(site: Site, visit: Visit) -> None:
    site.hold()
    visitor = visit(site.url)
    visitor.type_and_send("apples")
    expect(visitor.line).to_contain_text("Thinking")
    visitor.open(site.url)
    expect(visitor.box).to_have_value("apples")
    expect(visitor.questions).to_have_count(0)


def export(visitor: Visitor, button: str) -> str:
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_export_as_json_and_as_markdown(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask(MARKUP)
    expected = [
        Message(role="user", content=MARKUP),
        Message(role="assistant", content=f"You said: {MARKUP}"),
    ]
    visitor.page.get_by_text("Export and import").click()
    assert from_json(export(visitor, "Export as JSON")) == expected
    assert from_markdown(export(visitor, "Export as Markdown")) == expected


def load_file(visitor: Visitor, path: Path) -> None:
    with visitor.page.expect_file_chooser() as chooser:
        visitor.page.get_by_role("button", name="Import a chat").click()
    chooser.value.set_files(path)


def test_an_imported_chat_is_one_of_its_own(site: Site, visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    saved = [Message(role="user", content="pears"), Message(role="assistant", content=f"About {MARKUP}")]
    path.write_text(to_json(saved), encoding="utf-8")
    visitor = visit(site.url)
    visitor.ask("apples")
    visitor.page.get_by_text("Export and import").click()
    load_file(visitor, path)
    expect(visitor.questions).to_have_text(["pears"])
    assert read(visitor) == ["pears", f"About {MARKUP}"]
    expect(visitor.chats).to_have_count(2)
    visitor.ask("more")
    assert site.stream.prompts[-1].startswith("pears")


def test_a_file_that_is_no_chat_changes_nothing_and_says_why(site: Site, visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text('{"cities": []}', encoding="utf-8")
    visitor = visit(site.url, viewport={"width": 375, "height": 667})
    visitor.ask("apples")
    visitor.page.locator(".toggle-button").click()  # on a phone the side bar lies over what is said
    visitor.page.get_by_text("Export and import").click()
    load_file(visitor, path)
    expect(visitor.line).to_contain_text("could not be imported")
    expect(visitor.page.locator(".sidebar.open")).to_have_count(0)
    expect(visitor.questions).to_have_text(["apples"])
    visitor.ask("more")
    expect(visitor.chats).to_have_count(1)


def test_the_page_works_where_the_browser_keeps_nothing(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        "  Object.defineProperty(window, name, {get() { throw new DOMException('blocked', 'SecurityError'); }});"
    )
    visitor.open(site.url)
    visitor.ask("apples")
    expect(visitor.chats).to_have_count(1)
    visitor.page.locator("#new-chat").click()
    expect(visitor.questions).to_have_count(0)
    visitor.page.locator("#theme").click()
