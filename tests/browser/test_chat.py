"""A conversation in a real browser: what a visitor does, and what the model behind it sees."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from playwright.sync_api import expect

from tests.app.fakes import SEPARATOR
from tests.app.sites import Site
from tests.browser.conftest import Visitor

Visit = Callable[..., Visitor]


def numbered() -> Callable[[str], str]:
    """Answers that differ every time."""
    numbers = count(1)
    return lambda question: f"answer {next(numbers)} to {question}"


def test_a_message_is_answered(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    assert visitor.ask("你好, world") == "You said: 你好, world"
    assert visitor.questions.all_inner_texts() == ["你好, world"]
    expect(visitor.line).to_have_text("")


def test_the_answer_grows_as_it_is_written(site: Site, visit: Visit) -> None:
    gate = site.hold()
    visitor = visit(site.url)
    visitor.type_and_send("hello")
    expect(visitor.line).to_contain_text("Thinking")
    gate.release(len("You"))
    expect(visitor.answers).to_have_text("You")
    expect(visitor.line).to_contain_text("Writing")
    gate.release(len(" said"))
    expect(visitor.answers).to_have_text("You said")
    site.let_go()
    expect(visitor.answers).to_have_text("You said: hello")
    visitor.wait_until_idle()


def test_stop_ends_the_answer_within_a_token(site: Site, visit: Visit) -> None:
    gate = site.hold()
    visitor = visit(site.url)
    visitor.type_and_send("tell me everything")
    gate.release(5)
    expect(visitor.answers).to_have_text("You s")
    visitor.stop()
    steps = site.stream.steps
    gate.release(100)
    expect(visitor.line).to_have_text("Stopped.")
    assert site.stream.steps <= steps + 1
    visitor.wait_until_idle()
    assert visitor.answers.inner_text().strip().startswith("You s")


def test_escape_stops_too(site: Site, visit: Visit) -> None:
    gate = site.hold()
    visitor = visit(site.url)
    visitor.type_and_send("tell me everything")
    gate.release(5)
    expect(visitor.answers).to_have_text("You s")
    visitor.stop("escape")
    gate.release(100)
    expect(visitor.line).to_have_text("Stopped.")


def test_a_question_stopped_before_its_answer_goes_back_into_the_box(site: Site, visit: Visit) -> None:
    site.hold()
    visitor = visit(site.url)
    visitor.type_and_send("never mind")
    expect(visitor.line).to_contain_text("Thinking")
    visitor.stop()
    expect(visitor.box).to_have_value("never mind")
    expect(visitor.questions).to_have_count(0)


def test_retry_asks_the_last_question_again(site: Site, visit: Visit) -> None:
    site.stream.answer = numbered()
    visitor = visit(site.url)
    visitor.ask("one")
    assert visitor.ask("two") == "answer 2 to two"
    visitor.button("Retry").click()
    expect(visitor.answers.last).to_have_text("answer 3 to two")
    visitor.wait_until_idle()
    assert visitor.answers.count() == 2
    assert site.stream.prompts[-1] == SEPARATOR.join(["one", "answer 1 to one", "two"])


def test_undo_puts_the_question_back_into_the_box(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("one")
    visitor.ask("two")
    visitor.button("Undo").click()
    expect(visitor.box).to_have_value("two")
    expect(visitor.questions).to_have_text(["one"])


def test_an_edited_question_drops_what_followed(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("one")
    visitor.ask("two")
    visitor.questions.first.hover()
    visitor.page.locator("#transcript").get_by_label("Edit", exact=True).first.click()
    visitor.page.locator("#transcript textarea").fill("uno")
    visitor.page.locator("#transcript").get_by_label("Submit", exact=True).click()
    expect(visitor.answers).to_have_text(["You said: uno"])
    visitor.wait_until_idle()
    assert visitor.questions.all_inner_texts() == ["uno"]
    assert site.stream.prompts[-1] == "uno"


def test_the_conversation_so_far_is_the_prompt(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.ask("My name is <b>Ann</b> & ![x](y)")
    visitor.ask("two")
    assert site.stream.prompts[-1] == SEPARATOR.join(
        ["My name is <b>Ann</b> & ![x](y)", "You said: My name is <b>Ann</b> & ![x](y)", "two"]
    )
