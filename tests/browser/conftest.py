"""A server with a model made of plain Python, and visitors in a real Chromium who watch what their page does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Error, Locator, Page, Response, expect, sync_playwright

from app.options import Options
from tests.app.fakes import echo, shout
from tests.app.sites import Site, close_site, open_site

# Without windows it does the same in three fifths of the time.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 10_000  # ms

expect.set_options(timeout=PATIENCE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all that lies in this folder."""
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)


# --- the server --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server() -> Iterator[Site]:
    """The server that most tests share."""
    site = open_site()
    yield site
    close_site(site)


@pytest.fixture
def site(server: Site) -> Iterator[Site]:
    """The shared server with a model that echoes, and nothing of an earlier test."""
    server.stream.answer, server.stream.delay, server.stream.gate = echo, 0.0, None
    server.stream.prompts.clear()
    server.stream.seen_options.clear()
    server.fill.answer, server.fill.gate = shout, None
    server.fill.texts.clear()
    server.fill.seen_options.clear()
    yield server
    server.let_go()


@pytest.fixture
def site_with() -> Iterator[Callable[..., Site]]:
    """Starts a server with options of its own."""
    sites: list[Site] = []

    def make(options: Options | None = None, *, is_demo: bool = True) -> Site:
        sites.append(open_site(options, is_demo=is_demo))
        return sites[-1]

    yield make
    for each in sites:
        close_site(each)


# --- visitors ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium. Playwright keeps an event loop running in this thread for as long."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt install chromium (`make test` does it where it can)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody with a browser of their own; what the page must never do is written down."""

    context: BrowserContext
    page: Page
    requests: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # of requests, with the reason; leaving a page ends some, too
    says_yes: bool = False  # to the questions of the browser; otherwise they are trouble
    asked: list[str] = field(default_factory=list)  # the questions that were expected

    # What a visitor sees

    @property
    def box(self) -> Locator:
        return self.page.locator("#message textarea")

    @property
    def questions(self) -> Locator:
        return self.page.locator("#transcript .message.user")

    @property
    def answers(self) -> Locator:
        return self.page.locator("#transcript .message.bot")

    @property
    def line(self) -> Locator:
        return self.page.locator("#line")

    @property
    def send_button(self) -> Locator:
        return self.page.locator("#message .submit-button")

    @property
    def stop_button(self) -> Locator:
        return self.page.locator("#message .stop-button")

    @property
    def chats(self) -> Locator:
        return self.page.locator("#saved-chats li")

    def button(self, name: str) -> Locator:
        """A button of the last message that has one of this name (Gradio's English label)."""
        return self.page.locator("#transcript").get_by_label(name, exact=True).last

    # What a visitor does

    def open(self, url: str) -> Visitor:
        """Open a page, and again if the machine's network changed meanwhile.

        Chromium ends all requests when a network interface comes or goes, as with a container that starts somewhere.
        """
        so_far = len(self.trouble)
        for is_last in (False, False, True):
            self.failures.clear()
            try:
                self.page.goto(url)
                expect(self.box).to_be_visible()
                expect(self.page.locator("#saved-chats .glm-chats")).to_be_attached()
            except (AssertionError, Error):
                if is_last or not self.was_interrupted:
                    raise
            if not self.was_interrupted:
                break
            del self.trouble[so_far:]
        return self

    @property
    def was_interrupted(self) -> bool:
        return any("ERR_NETWORK_CHANGED" in failure for failure in self.failures)

    def type_and_send(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def ask(self, text: str) -> str:
        """Send a message, wait for the end of the answer and return it."""
        self.type_and_send(text)
        try:
            expect(self.box).to_have_value("", timeout=1000)
        except AssertionError:  # quicker than a hand: the event before had ended for the eye alone
            self.box.press("Enter")
        expect(self.box).to_have_value("")
        self.wait_until_idle()
        return self.answers.last.inner_text().strip()

    def stop(self, way: str = "button") -> None:
        press_stop(self.stop_button, way, "message", "stop")

    def wait_until_idle(self) -> None:
        expect(self.send_button).to_be_visible()
        expect(self.line.locator(".busy")).to_have_count(0)


def press_stop(button: Locator, way: str, component: str, event: str) -> None:
    """Press a button or the Escape key, and go on when the server has heard of it.

    Args:
        way: "button" or "escape".
        component, event: what the server hears; it is waited for whatever else the page asks for meanwhile.
    """
    page = button.page
    find = """([component, event]) => {
        const {id} = gradio_config.components.find(each => each.props.elem_id === component);
        const isOfIt = ([whose, name]) => whose === id && name === event;
        return gradio_config.dependencies.find(each => each.targets.some(isOfIt)).id;
    }"""
    function = page.evaluate(find, [component, event])

    def answers(response: Response) -> bool:
        asked = response.request.post_data_json
        return "/run/predict" in response.url and asked is not None and asked["fn_index"] == function

    with page.expect_response(answers):
        if way == "escape":
            page.keyboard.press("Escape")
        else:
            button.click()


def watch(visitor: Visitor) -> None:
    """Write down every request of the context, and what a page of ours never does."""
    visitor.context.on("request", lambda request: visitor.requests.append(request.url))
    page = visitor.page
    page.on("requestfailed", lambda request: visitor.failures.append(f"{request.url}: {request.failure}"))
    page.on("websocket", lambda socket: visitor.requests.append(socket.url))
    page.on("pageerror", lambda error: visitor.trouble.append(f"script error: {error}"))
    page.on("dialog", lambda dialog: answer_dialog(visitor, dialog))
    page.on("popup", lambda popup: visitor.trouble.append(f"popup: {popup.url}"))


def answer_dialog(visitor: Visitor, dialog: Dialog) -> None:
    """Say yes where the test expects a question, else write it down."""
    if visitor.says_yes:
        visitor.asked.append(dialog.message)
        dialog.accept()
    else:
        visitor.trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()


def elsewhere(requests: list[str]) -> list[str]:
    """The requests that left this machine."""
    return [
        url
        for url in requests
        if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).hostname != "127.0.0.1"
    ]


@contextmanager
def visiting(chromium: Browser) -> Iterator[Callable[..., Visitor]]:
    """Opens pages, each as a new visitor; at the end no page may have reached out or stumbled."""
    visitors: list[Visitor] = []

    def make(url: str, **settings: Any) -> Visitor:
        defaults = {"locale": "en-US", "viewport": {"width": 1280, "height": 800}}
        context = chromium.new_context(**{**defaults, **settings})
        context.set_default_timeout(PATIENCE)
        visitor = Visitor(context, context.new_page())
        visitors.append(visitor)
        watch(visitor)
        return visitor.open(url)

    yield make
    for visitor in visitors:
        visitor.context.close()
    for visitor in visitors:
        assert elsewhere(visitor.requests) == []
        assert visitor.trouble == [], visitor.failures


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visitor]]:
    """Opens a page as a new visitor."""
    with visiting(chromium) as make:
        yield make
