"""The tab that fills blanks in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from playwright.sync_api import Locator, expect

from app.options import Options
from app.web.wording import DEMO_BLANKS, EN, ZH, Words
from tests.app.sites import Site
from tests.browser.conftest import Visitor, press_stop
from tests.browser.test_hostile import HOSTILE

Visit = Callable[..., Visitor]
CHINESE = re.compile("[\u4e00-\u9fff]")


@dataclass
class Tab:
    """What a visitor sees and does in the tab."""

    visitor: Visitor

    def __post_init__(self) -> None:
        self.visitor.page.locator("#fill-tab-button").click()
        expect(self.text).to_be_visible()
        expect(self.examples.first).not_to_be_empty()  # the last thing that the page asks for when it opens

    def _at(self, name: str) -> Locator:
        return self.visitor.page.locator(name)

    @property
    def text(self) -> Locator:
        return self._at("#fill-text textarea")

    @property
    def filled(self) -> Locator:
        return self._at("#filled .filled")

    @property
    def fillings(self) -> Locator:
        return self._at("#filled mark")

    @property
    def alternatives(self) -> Locator:
        return self._at("#alternatives .answer")

    @property
    def line(self) -> Locator:
        return self._at("#fill-line")

    @property
    def start_button(self) -> Locator:
        return self._at("#fill-start")

    @property
    def stop_button(self) -> Locator:
        return self._at("#fill-stop")

    @property
    def examples(self) -> Locator:
        return self._at("#fill-examples button")

    def start(self, text: str) -> None:
        """Press the button, and go on when the server has taken the text."""
        self.text.fill(text)
        with self.visitor.page.expect_response(lambda response: "/queue/join" in response.url):
            self.start_button.click()

    def fill(self, text: str) -> str:
        """Fill a text, wait for the end and return what is shown."""
        self.start(text)
        self.wait_until_idle()
        return self.filled.inner_text()

    def wait_until_idle(self) -> None:
        self.visitor.page.wait_for_timeout(200)  # for its first words to be here
        expect(self.line.locator(".busy")).to_have_count(0)
        expect(self.start_button).to_be_visible()

    def stop(self, way: str = "button") -> None:
        press_stop(self.stop_button, way, "fill-stop", "click")

    def open_settings(self) -> None:
        self._at("#fill-settings > button").click()
        self.visitor.page.wait_for_timeout(700)  # mounted sliders take their defaults once more

    def choose(self, strategy: str) -> None:
        self._at("#fill-strategy").get_by_label(strategy, exact=True).check()

    def set(self, label: str, value: str) -> None:
        field = self._at("#fill-settings").get_by_label(f"number input for {label}")
        field.fill(value)
        field.press("Enter")


@pytest.fixture
def open_tab(site: Site, visit: Visit) -> Callable[..., Tab]:
    def open_tab(**settings: object) -> Tab:
        return Tab(visit(site.url, **settings))

    return open_tab


OpenTab = Callable[..., Tab]


# --- filling


@pytest.mark.parametrize(("locale", "words"), [("en-US", EN), ("zh-CN", ZH)])
def test_several_blanks_are_filled_with_alternatives(open_tab: OpenTab, locale: str, words: Words) -> None:
    tab = open_tab(locale=locale)
    assert tab.fill("1 [MASK] 2\n[MASK] 3 [MASK]") == "1 filling 1 2\nfilling 2 3 filling 3"
    expect(tab.fillings).to_have_text(["filling 1", "filling 2", "filling 3"])
    expect(tab.alternatives).to_have_count(12)
    assert tab.alternatives.all_inner_texts()[:2] == ["filling 1", "filling 1 B"]
    expect(tab.visitor.page.locator("#alternatives")).to_contain_text(words.alternatives)
    expect(tab.visitor.page.locator("#alternatives h4")).to_have_text(
        [words.blank.format(number=number) for number in (1, 2, 3)]
    )
    expect(tab.text).to_have_value("1 [MASK] 2\n[MASK] 3 [MASK]")


def test_fillings_grow_as_they_are_written(site: Site, open_tab: OpenTab) -> None:
    gate = site.hold()
    tab = open_tab()
    tab.start("a [MASK] b [MASK] c")
    expect(tab.line).to_contain_text(EN.thinking)
    gate.release(len("fill"))
    expect(tab.filled).to_have_text("a fill b [MASK] c")
    expect(tab.line).to_contain_text(EN.filling.format(blank=1, count=2))
    gate.release(len("ing 1fi"))
    expect(tab.filled).to_have_text("a filling 1 b fi c")
    expect(tab.line).to_contain_text(EN.filling.format(blank=2, count=2))
    site.let_go()
    expect(tab.filled).to_have_text("a filling 1 b filling 2 c")
    tab.wait_until_idle()
    expect(tab.line).to_have_text("")


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stop_keeps_what_there_is(site: Site, open_tab: OpenTab, way: str) -> None:
    gate = site.hold()
    tab = open_tab()
    tab.start("a [MASK] b [MASK]")
    gate.release(4)
    expect(tab.filled).to_have_text("a fill b [MASK]")
    tab.stop(way)
    steps = site.fill.steps
    gate.release(1000)
    expect(tab.line).to_have_text(EN.stopped)
    expect(tab.start_button).to_be_visible()
    expect(tab.filled).to_have_text("a fill b [MASK]")
    assert site.fill.steps <= steps + 1


def test_an_example_is_filled_with_a_click(site: Site, open_tab: OpenTab) -> None:
    tab = open_tab()
    expect(tab.examples).to_have_text(DEMO_BLANKS["en"])
    tab.examples.nth(1).click()
    expect(tab.text).to_have_value(DEMO_BLANKS["en"][1])
    expect(tab.filled).to_have_text(DEMO_BLANKS["en"][1].replace("[MASK]", "filling 1"))
    assert site.fill.texts == [DEMO_BLANKS["en"][1]]


def test_a_blank_is_put_where_the_cursor_is(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.text.fill("The capital of XX is Paris.")
    tab.text.evaluate("field => field.setSelectionRange(15, 17)")
    tab.visitor.page.locator("#fill-insert").click()
    expect(tab.text).to_have_value("The capital of [MASK] is Paris.")
    expect(tab.text).to_be_focused()
    tab.visitor.page.wait_for_timeout(200)
    tab.visitor.page.keyboard.type("!")
    expect(tab.text).to_have_value("The capital of [MASK]! is Paris.")


def test_the_settings_reach_the_model(site: Site, open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.open_settings()
    for label, value in (
        (EN.page_num_beams, "2"), (EN.page_length_penalty, "-0.5"), (EN.page_min_length, "3"),
        (EN.page_no_repeat, "0"), (EN.page_max_length, "512"),
    ):  # fmt: skip
        tab.set(label, value)
    tab.fill("[MASK]")
    seen = site.fill.seen_options[-1]
    assert (seen.strategy, seen.num_beams, seen.length_penalty) == ("beam_search", 2, -0.5)
    assert (seen.min_gen_length, seen.no_repeat_ngram_size, seen.max_length) == (3, 0, 512)
    expect(tab.alternatives).to_have_count(2)
    tab.choose(EN.page_strategy_sampling)
    tab.set(EN.page_top_k, "9")
    tab.visitor.page.locator("#fill-seed textarea, #fill-seed input").fill("7")
    tab.fill("[MASK]")
    seen = site.fill.seen_options[-1]
    assert (seen.strategy, seen.top_k, seen.seed, seen.every_kind) == ("sampling", 9, 7, True)
    expect(tab.alternatives).to_have_count(0)
    tab.choose(EN.page_strategy_greedy)
    expect(tab.visitor.page.get_by_label(f"number input for {EN.page_top_k}")).to_have_count(0)
    tab.fill("[MASK]")
    assert site.fill.seen_options[-1].temperature == 0


# --- what cannot be filled


@pytest.mark.parametrize(("locale", "words"), [("en-US", EN), ("zh-CN", ZH)])
def test_bad_texts_are_answered_and_stay(open_tab: OpenTab, locale: str, words: Words) -> None:
    tab = open_tab(locale=locale)
    for text, told in (
        ("", words.fill_no_text),
        ("[MASK] " * 100, words.fill_too_many.format(count=100, limit=64)),
        ("x" * 3000, words.fill_too_long + words.too_long_by.format(tokens=3000, limit=2000)),
        ("[sMASK]", words.fill_unknown_mask),
    ):
        tab.start(text)
        expect(tab.line.locator(".failed")).to_have_text(told)
        expect(tab.text).to_have_value(text)
        expect(tab.filled).to_have_count(0)
        expect(tab.start_button).to_be_visible()
    tab.start("no blank")
    expect(tab.line).to_have_text(words.fill_no_blank)
    expect(tab.filled).to_have_text("no blankfilling 1")


def test_a_failing_model_gives_a_sentence_and_no_traceback(site: Site, open_tab: OpenTab) -> None:
    def fail(blank: int) -> str:
        raise RuntimeError("secret path /root/model.bin")

    site.fill.answer = fail
    tab = open_tab()
    tab.start("a [MASK]")
    expect(tab.line.locator(".failed")).to_have_text(EN.failed)
    assert "secret" not in tab.visitor.page.content()
    expect(tab.text).to_have_value("a [MASK]")


@pytest.mark.parametrize("hostile", ["{{constructor.constructor('window.hacked=1')()}}", "${window.hacked=1}"])
def test_templates_in_an_answer_stay_text(site: Site, open_tab: OpenTab, hostile: str) -> None:
    site.fill.answer = lambda blank: hostile
    tab = open_tab()
    assert tab.fill("a [MASK]") == f"a {hostile}"
    assert tab.alternatives.first.inner_text() == hostile
    assert tab.visitor.page.evaluate("window.hacked") is None


def test_hostile_answers_stay_text(site: Site, open_tab: OpenTab) -> None:
    """All of them in one text; `visit` sees to requests, dialogs and errors."""
    attacks = [attack for attack in HOSTILE.values() if len(attack) < 1000]
    site.fill.answer = lambda blank: attacks[blank - 1]
    tab = open_tab()
    count = min(len(attacks), 60)
    tab.start(" ".join(["[MASK]"] * count))
    expect(tab.fillings).to_have_count(count)
    tab.wait_until_idle()
    assert "<script>" in tab.filled.inner_text()
    inside = tab.visitor.page.locator("#filled .filled *:not(mark), #alternatives .answer *")
    assert inside.count() == 0
    assert tab.visitor.page.evaluate("window.hacked") is None


# --- others


def test_fillings_and_answers_take_turns(site: Site, visit: Visit, open_tab: OpenTab) -> None:
    gate = site.hold()
    tab, talker = open_tab(), visit(site.url)
    tab.start("a [MASK]")
    expect(tab.line).to_contain_text(EN.thinking)
    talker.type_and_send("hello")
    expect(talker.line).to_contain_text(EN.next_in_queue)
    last = Tab(visit(site.url, locale="zh-CN"))
    last.start("b [MASK]")
    expect(last.line).to_contain_text(ZH.queued.format(count=2))
    gate.release(len("filling 1"))
    expect(tab.filled).to_have_text("a filling 1")
    expect(last.line).to_contain_text(ZH.next_in_queue)
    site.let_go()
    expect(talker.answers).to_have_text("You said: hello")
    expect(last.filled).to_have_text("b filling 1")
    expect(tab.filled).to_have_text("a filling 1")


def test_a_full_queue_says_so(site_with: Callable[..., Site], visit: Visit) -> None:
    site = site_with(Options(queue_size=1))
    site.hold()
    tabs = [Tab(visit(site.url)) for _ in range(3)]
    for tab, told in zip(tabs, (EN.thinking, EN.next_in_queue, EN.queue_full.format(count=1)), strict=True):
        tab.start("a [MASK]")
        expect(tab.line).to_contain_text(told)
    expect(tabs[2].text).to_have_value("a [MASK]")
    site.let_go()


def test_a_chat_goes_on_while_a_text_is_filled(site: Site, visit: Visit) -> None:
    gate = site.hold()
    visitor = visit(site.url)
    visitor.type_and_send("hello")
    gate.release(3)
    expect(visitor.answers).to_have_text("You")
    tab = Tab(visitor)
    tab.start("a [MASK]")
    expect(tab.line).to_contain_text(EN.next_in_queue)
    tab.stop()
    expect(tab.line).to_have_text(EN.stopped)
    visitor.page.locator("#chat-tab-button").click()
    site.let_go()
    expect(visitor.answers).to_have_text("You said: hello")


def test_a_saved_chat_opens_in_front_of_the_blanks(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("hello")
    Tab(visitor)
    visitor.chats.locator(".open").first.click()
    expect(visitor.answers).to_be_visible()
    Tab(visitor)
    visitor.page.locator("#new-chat").click()
    expect(visitor.box).to_be_visible()


# --- the page


@pytest.mark.parametrize(("locale", "words"), [("en-US", EN), ("zh-CN", ZH)])
def test_the_tab_speaks_the_browsers_language(open_tab: OpenTab, locale: str, words: Words) -> None:
    tab = open_tab(locale=locale)
    expect(tab.visitor.page.locator("#fill-tab-button")).to_have_text(words.page_tab_fill)
    expect(tab.start_button).to_have_text(words.page_fill_button)
    assert tab.text.get_attribute("placeholder") == words.page_fill_placeholder
    tab.open_settings()
    expect(tab.visitor.page.locator("#fill-settings")).to_contain_text(words.page_length_penalty)
    expect(tab.examples).to_have_text(DEMO_BLANKS["zh" if words is ZH else "en"])
    if words is EN:
        assert not CHINESE.search(tab.visitor.page.locator("body").inner_text())


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_the_tab_fits_a_phone(site: Site, open_tab: OpenTab, locale: str) -> None:
    site.fill.answer = lambda blank: "x" * 300
    tab = open_tab(locale=locale, viewport={"width": 375, "height": 667}, is_mobile=True, has_touch=True)
    assert_fits(tab)
    tab.fill("y" * 300 + "[MASK]")
    tab.open_settings()
    assert_fits(tab)
    expect(tab.filled).to_be_visible()


def assert_fits(tab: Tab) -> None:
    """Nothing stands out to the side; what is too high scrolls inside of the tab."""
    sizes = "[document.documentElement, document.body, document.querySelector('#fill-tab')].map(e => e.scrollWidth)"
    assert max(tab.visitor.page.evaluate(sizes)) <= 375
    assert tab.visitor.page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_what_is_copied_is_the_text_alone(site: Site, open_tab: OpenTab) -> None:
    site.fill.answer = lambda blank: ["France", "", "5 < 6"][blank - 1]
    tab = open_tab(permissions=["clipboard-read", "clipboard-write"])
    tab.fill("The capital of [MASK] is Paris[MASK].\n  [MASK]")
    tab.visitor.page.evaluate("getSelection().selectAllChildren(document.querySelector('#filled .filled'))")
    tab.visitor.page.keyboard.press("Control+C")
    tab.visitor.page.wait_for_timeout(100)
    copied = tab.visitor.page.evaluate("navigator.clipboard.readText()")
    assert copied == "The capital of France is Paris.\n  5 < 6"
