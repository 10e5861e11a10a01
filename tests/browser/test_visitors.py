"""Several visitors, waiting, and leaving: nobody sees what is another's, and nobody computes for who is gone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from app.options import Options
from tests.app.fakes import SEPARATOR
from tests.app.sites import Site
from tests.browser.conftest import PATIENCE, Visitor

Visit = Callable[..., Visitor]


def test_two_visitors_at_once_never_mix(site: Site, visit: Visit) -> None:
    site.stream.delay = 0.002
    site.stream.answer = lambda question: f"for {question}. " * 20
    one, other = visit(site.url), visit(site.url)
    for turn in range(3):
        one.type_and_send(f"apple-{turn}")
        other.type_and_send(f"pear-{turn}")
        for visitor in (one, other):
            expect(visitor.answers).to_have_count(turn + 1)
            visitor.wait_until_idle()
    seen = {name: v.page.locator("body").inner_text() for name, v in (("apple", one), ("pear", other))}
    assert "apple-2" in seen["apple"]
    assert "pear-2" in seen["pear"]
    assert "pear" not in seen["apple"]
    assert "apple" not in seen["pear"]
    for visitor, fruit in ((one, "apple"), (other, "pear")):
        expected = [("".join(f"for {fruit}-{turn}. " * 20)).strip() for turn in range(3)]
        assert [text.strip() for text in visitor.answers.all_inner_texts()] == expected
    assert not [prompt for prompt in site.stream.prompts if "apple" in prompt and "pear" in prompt]


def test_whoever_waits_sees_the_position_and_moves_up(site: Site, visit: Visit) -> None:
    site.hold()
    running, next_one, last = visit(site.url), visit(site.url), visit(site.url)
    running.type_and_send("first")
    expect(running.line).to_contain_text("Thinking")
    next_one.type_and_send("second")
    expect(next_one.line).to_contain_text("next in line")
    last.type_and_send("third")
    expect(last.line).to_contain_text("2 before you")
    next_one.stop()
    expect(next_one.line).to_have_text("Stopped.")
    expect(next_one.box).to_have_value("second")
    expect(last.line).to_contain_text("next in line")
    site.let_go()
    expect(running.answers).to_have_text("You said: first")
    expect(last.answers).to_have_text("You said: third")


def test_a_full_queue_says_so_and_keeps_the_message(site_with: Callable[..., Site], visit: Visit) -> None:
    site = site_with(Options(queue_size=1))
    site.hold()
    running, waiting, turned_away = visit(site.url), visit(site.url), visit(site.url)
    running.type_and_send("first")
    expect(running.line).to_contain_text("Thinking")
    waiting.type_and_send("second")
    expect(waiting.line).to_contain_text("next in line")
    turned_away.type_and_send("third")
    expect(turned_away.line).to_have_text(re.compile("waiting already"))
    expect(turned_away.box).to_have_value("third")
    expect(turned_away.questions).to_have_count(0)
    site.let_go()
    expect(waiting.answers).to_have_text("You said: second")
    assert turned_away.ask("third") == "You said: third"


def test_many_visitors_are_all_let_in(site: Site, visit: Visit) -> None:
    """Gradio's queue must not hold anybody back: by default it runs one event of a kind at a time."""
    site.hold()
    visitors = [visit(site.url) for _ in range(4)]
    for number, visitor in enumerate(visitors):
        visitor.type_and_send(f"question {number}")
        expect(visitor.line).to_contain_text(("Thinking", "next in line", "2 before", "3 before")[number])
    site.let_go()
    for number, visitor in enumerate(visitors):
        expect(visitor.answers).to_have_text(f"You said: question {number}")


def close(page: Page) -> None:
    page.close()


def navigate_away(page: Page) -> None:
    page.goto("about:blank")


def reload(page: Page) -> None:
    page.reload()


@pytest.mark.parametrize("leave", [close, navigate_away, reload])
def test_leaving_stops_the_answer_within_a_token(site: Site, visit: Visit, leave: Callable[[Page], None]) -> None:
    gate = site.hold()
    visitor = visit(site.url)
    visitor.type_and_send("a long story")
    gate.release(3)
    expect(visitor.answers).to_have_text("You")
    leave(visitor.page)
    assert left_alone(site)
    steps = site.stream.steps
    gate.release(50)
    somebody = visit(site.url)
    site.let_go()
    somebody.ask("next")
    assert site.stream.steps - steps <= 1 + len("You said: next")


def test_leaving_the_queue_gives_up_the_place(site: Site, visit: Visit) -> None:
    site.hold()
    running, leaver, last = visit(site.url), visit(site.url), visit(site.url)
    running.type_and_send("first")
    expect(running.line).to_contain_text("Thinking")
    leaver.type_and_send("second")
    expect(leaver.line).to_contain_text("next in line")
    last.type_and_send("third")
    expect(last.line).to_contain_text("2 before you")
    leaver.page.close()
    expect(last.line).to_contain_text("next in line")
    site.let_go()
    expect(last.answers).to_have_text("You said: third")
    assert "second" not in site.stream.prompts


def left_alone(site: Site) -> bool:
    """Whether the running answer is cancelled soon, seen from the engine."""
    for _ in range(PATIENCE // 50):
        running = site.engine._running
        if all(job.is_cancelled for job in running):
            return True
        site.engine._worker.join(0.05)
    return False


def test_looking_away_does_not_stop_the_answer(site: Site, visit: Visit) -> None:
    gate = site.hold()
    visitor = visit(site.url)
    visitor.type_and_send("hello")
    gate.release(3)
    expect(visitor.answers).to_have_text("You")
    elsewhere = visitor.context.new_page()
    elsewhere.bring_to_front()
    elsewhere.wait_for_timeout(500)
    site.let_go()
    elsewhere.wait_for_timeout(500)
    visitor.page.bring_to_front()
    expect(visitor.answers).to_have_text("You said: hello")


def test_the_page_comes_back_with_the_connection(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("one")
    visitor.context.set_offline(True)
    visitor.type_and_send("two")
    expect(visitor.page.get_by_text("Connection to the server was lost")).to_be_visible()
    with visitor.page.expect_event("load"):  # Gradio loads the page anew
        visitor.context.set_offline(False)
    expect(visitor.questions).to_have_text(["one"])
    assert visitor.ask("three") == "You said: three"
    assert site.stream.prompts[-1] == SEPARATOR.join(["one", "You said: one", "three"])


def test_a_long_conversation_is_trimmed_with_a_notice(site_with: Callable[..., Site], visit: Visit) -> None:
    site = site_with(Options(max_length=256))
    site.stream.answer = lambda question: "a" * 60
    visitor = visit(site.url)
    visitor.page.get_by_text("How it answers").click()
    length = visitor.page.get_by_label("number input for Maximum length")
    length.fill("256")
    length.press("Enter")
    visitor.ask("q1" * 30)
    visitor.ask("q2" * 20)
    expect(visitor.line).to_have_text("")
    visitor.ask("q3" * 20)
    expect(visitor.line).to_contain_text("no longer sees its first round")
    assert "q1" not in site.stream.prompts[-1]
    assert visitor.questions.count() == 3


def test_a_cut_answer_says_so(site: Site, visit: Visit) -> None:
    site.stream.answer = lambda question: "x" * 5000
    visitor = visit(site.url)
    visitor.ask("go on")
    expect(visitor.line).to_contain_text("fills the 2048 tokens that the model can hold")


def test_a_failing_model_gives_a_sentence_and_no_traceback(site: Site, visit: Visit) -> None:
    def fail(question: str) -> str:
        raise RuntimeError("secret path /root/model.bin")

    site.stream.answer = fail
    visitor = visit(site.url)
    visitor.type_and_send("hello")
    expect(visitor.line.locator(".failed")).to_contain_text("failed while answering")
    assert "secret" not in visitor.page.content()
    assert "Traceback" not in visitor.page.content()
    expect(visitor.box).to_have_value("hello")


def test_a_message_that_is_too_long_is_refused_with_the_remedy(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.type_and_send("x" * 3000)
    expect(visitor.line.locator(".failed")).to_contain_text("too long for the model")
    assert visitor.box.input_value() == "x" * 3000
