"""The page itself: languages, phones, light and dark, the keyboard, and how answers are shown."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from app.options import Options
from app.web.wording import DEMO_EXAMPLES, EN, EXAMPLES, ZH
from tests.app.sites import Site
from tests.browser.conftest import Visitor

Visit = Callable[..., Visitor]

CHINESE = re.compile("[\u4e00-\u9fff]")


# --- languages


@pytest.mark.parametrize("locale", ["zh-CN", "zh", "zh-HK"])
def test_chinese_browsers_get_a_chinese_page(site: Site, visit: Visit, locale: str) -> None:
    visitor = visit(site.url, locale=locale)
    expect(visitor.page.locator("#transcript .placeholder")).to_contain_text("你好")
    expect(visitor.page.locator("#transcript .example")).to_have_text(DEMO_EXAMPLES["zh"])
    expect(visitor.page.locator("#new-chat")).to_contain_text(ZH.page_new_chat)
    assert visitor.box.get_attribute("placeholder") == ZH.page_message
    assert visitor.page.evaluate("document.documentElement.lang").startswith("zh")
    site.stream.answer = lambda question: "x" * 5000
    visitor.ask("继续")
    expect(visitor.line).to_contain_text("已占满模型的 2048 个词元")


@pytest.mark.parametrize("locale", ["en-US", "fr-FR"])
def test_other_browsers_get_an_english_one(site: Site, visit: Visit, locale: str) -> None:
    visitor = visit(site.url, locale=locale)
    expect(visitor.page.locator("#transcript .placeholder")).to_contain_text("Hello!")
    expect(visitor.page.locator("#transcript .example")).to_have_text(DEMO_EXAMPLES["en"])
    assert not CHINESE.search(visitor.page.locator("body").inner_text())


@pytest.mark.parametrize(("language", "locale", "words"), [("zh", "en-US", ZH), ("en", "zh-CN", EN)])
def test_the_option_wins_over_the_browser(
    site_with: Callable[..., Site], visit: Visit, language: str, locale: str, words: object
) -> None:
    visitor = visit(site_with(Options(language=language)).url, locale=locale)
    expect(visitor.page.locator("#new-chat")).to_contain_text(words.page_new_chat)  # type: ignore[attr-defined]
    expect(visitor.page.locator("#transcript .example")).to_have_text(DEMO_EXAMPLES[language])  # type: ignore[index]


# --- the model


def test_the_demo_model_says_what_it_is_and_how_to_get_another(site: Site, visit: Visit) -> None:
    head = visit(site.url).page.locator("#model")
    expect(head).to_contain_text("fake-glm · 1.23K · cpu")
    expect(head).to_contain_text("small demo model")
    expect(head).to_contain_text("python web_demo.py --model FOLDER")


def test_another_model_is_named_and_offers_other_examples(site_with: Callable[..., Site], visit: Visit) -> None:
    visitor = visit(site_with(is_demo=False).url)
    expect(visitor.page.locator("#model")).to_contain_text("fake-glm")
    expect(visitor.page.locator("#model")).not_to_contain_text("demo")
    expect(visitor.page.locator("#transcript .example")).to_have_text(EXAMPLES["en"])


def test_an_example_is_asked_with_a_click(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.page.locator("#transcript .example").nth(1).click()
    expect(visitor.answers).to_have_text(f"You said: {DEMO_EXAMPLES['en'][1]}")


def test_the_settings_reach_the_model(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.page.get_by_text(EN.page_settings).click()
    visitor.page.wait_for_timeout(700)  # mounted sliders take their defaults once more, whatever stands in them
    for label, value in ((EN.page_max_length, "512"), (EN.page_top_p, "0.5"), (EN.page_temperature, "0.2")):
        field = visitor.page.get_by_label(f"number input for {label}")
        field.fill(value)
        field.press("Enter")
    visitor.page.get_by_label(EN.page_seed).fill("7")
    visitor.ask("hello")
    seen = site.stream.seen_options[-1]
    assert (seen.max_length, seen.top_p, seen.temperature, seen.seed, seen.top_k) == (512, 0.5, 0.2, 7, 50)
    visitor.page.get_by_label(EN.page_seed).fill("")
    visitor.ask("hello")
    assert site.stream.seen_options[-1].seed is None
    visitor.page.get_by_label(EN.page_seed).fill("often")
    visitor.type_and_send("hello")
    expect(visitor.line.locator(".failed")).to_contain_text("The seed must be a whole number from 0 to")


# --- the keyboard


def test_shift_enter_starts_a_line(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.box.press_sequentially("one")
    visitor.box.press("Shift+Enter")
    visitor.box.press_sequentially("two")
    expect(visitor.box).to_have_value("one\ntwo")
    visitor.box.press("Enter")
    expect(visitor.answers).to_have_count(1)
    assert site.stream.prompts == ["one\ntwo"]


def test_enter_that_ends_a_chinese_word_does_not_send(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.box.focus()
    devtools = visitor.context.new_cdp_session(visitor.page)
    devtools.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    for kind in ("rawKeyDown", "keyUp"):  # what Chromium reports of a key that the input method takes
        devtools.send("Input.dispatchKeyEvent", {"type": kind, "key": "Enter", "windowsVirtualKeyCode": 229})
    devtools.send("Input.insertText", {"text": "你好"})
    expect(visitor.box).to_have_value("你好")
    visitor.page.wait_for_timeout(200)
    assert site.stream.prompts == []
    visitor.box.press("Enter")
    expect(visitor.answers).to_have_text("You said: 你好")


def test_what_is_typed_next_goes_into_the_message_box(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("one")
    visitor.page.locator("#new-chat").click()
    expect(visitor.questions).to_have_count(0)
    expect(visitor.box).to_be_focused()

    visitor.chats.locator(".open").click()
    expect(visitor.questions).to_have_text(["one"])
    expect(visitor.box).to_be_focused()

    visitor.button("Undo").click()
    expect(visitor.box).to_have_value("one")
    expect(visitor.box).to_be_focused()
    visitor.page.keyboard.type("!")
    expect(visitor.box).to_have_value("one!")

    gate = site.hold()
    visitor.box.press("Enter")
    gate.release(3)
    expect(visitor.answers).to_have_text("You")
    visitor.stop()
    visitor.wait_until_idle()
    expect(visitor.box).to_be_focused()

    visitor.page.get_by_role("tab").nth(1).click()
    expect(visitor.box).to_be_hidden()
    visitor.page.locator("#new-chat").click()
    expect(visitor.box).to_be_focused()


def test_on_a_phone_the_keyboard_stays_down(site: Site, visit: Visit) -> None:
    visitor = visit(site.url, viewport={"width": 375, "height": 667}, is_mobile=True, has_touch=True)
    visitor.ask("one")
    visitor.page.locator(".toggle-button").click()
    visitor.page.locator("#new-chat").tap()
    expect(visitor.page.locator(".sidebar.open")).to_have_count(0)
    expect(visitor.questions).to_have_count(0)
    visitor.page.wait_for_timeout(300)
    expect(visitor.box).not_to_be_focused()


def test_an_empty_message_is_not_sent(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.type_and_send("   ")
    visitor.page.wait_for_timeout(300)
    expect(visitor.questions).to_have_count(0)
    assert visitor.ask("hello") == "You said: hello"


def test_the_next_message_can_be_typed_while_the_model_writes(site: Site, visit: Visit) -> None:
    gate = site.hold()
    visitor = visit(site.url)
    visitor.type_and_send("one")
    gate.release(3)
    expect(visitor.answers).to_have_text("You")
    visitor.type_and_send("two")  # kept: an answer at a time
    site.let_go()
    visitor.wait_until_idle()
    expect(visitor.box).to_have_value("two")
    expect(visitor.questions).to_have_text(["one"])


# --- how answers are shown

RICH = r"""
A **bold** word, `code`, a [link](https://example.com/) and <b>tags</b>.

```python
def smaller(x: int) -> bool:
    return x <y and vector<int>
```

| a | b |
|---|---|
| 1 | 2 |

Inline $a^2$ and \(b^2\), then
$$c^2$$
and \[d^2\]
"""


def test_answers_are_rendered(site: Site, visit: Visit) -> None:
    site.stream.answer = lambda question: RICH
    visitor = visit(site.url)
    visitor.ask("show me")
    answer = visitor.answers
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator("table td")).to_have_text(["1", "2"])
    expect(answer.locator("pre .token.keyword").first).to_have_text("def")
    expect(answer.locator(".katex")).to_have_count(4)
    expect(answer.locator(".katex-display")).to_have_count(2)
    expect(answer.locator("a")).to_have_attribute("rel", "noopener noreferrer")
    assert "<b>tags</b>" in answer.inner_text().replace("\N{WORD JOINER}", "")


def test_money_and_variables_are_no_formulas(site: Site, visit: Visit) -> None:
    site.stream.answer = lambda question: "It costs $5, **bold**, or $6.\n```sh\n$A\n```\n*then*\n```sh\n$B\n```\n$a<b$"
    visitor = visit(site.url)
    logged: list[str] = []
    visitor.page.on("console", lambda message: logged.append(message.text))
    visitor.ask("I have $5 and $6")
    expect(visitor.answers.locator("pre")).to_have_text(["$A", "$B"])
    expect(visitor.answers.locator("strong")).to_have_text("bold")
    expect(visitor.answers.locator(".katex")).to_have_count(1)
    assert visitor.questions.all_inner_texts() == ["I have $5 and $6"]
    assert [text for text in logged if "LaTeX" in text or "character" in text] == []


def test_what_is_copied_has_no_invisible_marks(site: Site, visit: Visit) -> None:
    site.stream.answer = lambda question: RICH
    visitor = visit(site.url, permissions=["clipboard-read", "clipboard-write"])
    visitor.ask("show me")
    code = "def smaller(x: int) -> bool:\n    return x <y and vector<int>"
    visitor.answers.locator(".code_wrap").hover()
    visitor.answers.locator(".copy_code_button").click()
    assert clipboard(visitor) == code
    visitor.button("Copy message").click()
    assert clipboard(visitor).strip() == RICH.strip()
    visitor.page.evaluate("getSelection().selectAllChildren(document.querySelector('#transcript pre'))")
    visitor.page.keyboard.press("Control+C")
    assert clipboard(visitor).strip() == code


def clipboard(visitor: Visitor) -> str:
    visitor.page.wait_for_timeout(100)
    return str(visitor.page.evaluate("navigator.clipboard.readText()"))


# --- screens


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_the_page_fits_a_phone(site: Site, visit: Visit, language: str) -> None:
    site.stream.answer = lambda question: RICH + "`" + "x" * 300 + "`\n\n```\n" + "y" * 300 + "\n```"
    visitor = visit(site.url, locale=language, viewport={"width": 375, "height": 667}, is_mobile=True, has_touch=True)
    assert_fits(visitor)
    visitor.ask("q" * 100)
    assert_fits(visitor)
    visitor.ask("What is this?\n```\n" + "z" * 300 + "\n```")
    assert_fits(visitor)
    expect(visitor.page.locator(".sidebar.open")).to_have_count(0)
    visitor.page.locator(".toggle-button").click()
    expect(visitor.page.locator("#new-chat")).to_be_in_viewport()
    assert_fits(visitor)
    visitor.page.locator("#new-chat").click()  # makes way for the conversation
    expect(visitor.page.locator(".sidebar.open")).to_have_count(0)
    visitor.ask("again")


def assert_fits(visitor: Visitor) -> None:
    """Nothing stands out to the side, and the box to write in is on the screen."""
    expect(visitor.page.locator("#transcript .bubble-wrap")).to_be_attached()
    width = visitor.page.evaluate(
        "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth, "
        "document.querySelector('#transcript .bubble-wrap').scrollWidth)"
    )
    assert width <= 375
    expect(visitor.box).to_be_in_viewport()


def test_long_conversations_scroll_inside_the_page(site: Site, visit: Visit) -> None:
    site.stream.answer = lambda question: "line\n\n" * 60
    visitor = visit(site.url)
    visitor.ask("go")
    expect(visitor.box).to_be_in_viewport(ratio=1)
    assert visitor.page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_a_new_question_is_in_sight(site: Site, visit: Visit) -> None:
    site.stream.answer = lambda question: "line\n\n" * 60
    visitor = visit(site.url)
    visitor.ask("go")
    visitor.page.locator("#transcript .bubble-wrap").evaluate("view => view.scrollTop = 0")
    site.stream.answer = lambda question: "done"
    visitor.ask("and now")
    expect(visitor.answers.last).to_be_in_viewport()


def brightness(visitor: Visitor) -> int:
    colour = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) // 3


def test_light_and_dark_follow_the_system_until_chosen(site: Site, visit: Visit) -> None:
    assert brightness(visit(site.url, color_scheme="light")) > 200
    visitor = visit(site.url, color_scheme="dark")
    assert brightness(visitor) < 60
    visitor.page.locator("#theme").click()
    assert brightness(visitor) > 200
    visitor.open(site.url)
    visitor.page.wait_for_function("!document.body.classList.contains('dark')")


def test_the_page_is_quick(site: Site, visit: Visit) -> None:
    """Seconds from nothing to a page that can be written in; generous, for a loaded machine."""
    visitor = visit(site.url)
    visitor.open(site.url)
    timing = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    assert visitor.page.evaluate(timing) < 3000
