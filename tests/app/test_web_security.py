"""Text made inert, and the gate in front of the server."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from app.web.security import MARK, MAX_BODY, Gate, inert, plain

PAGE = b'<html><head><script>one()</script><script type="module" src="x.js"></script></head></html>'


@pytest.mark.parametrize(
    "text",
    [
        "<b>", "</b>", "<!-- -->", "<!DOCTYPE html>", "<?php ?>", "<<b>", "< b", "a < b", "<3", "![x](y)", "!x",
        "[!x]", "```mermaid\n", "```python\n", "1 <2", "x<y", "vec![1]", "", "<", "!", "``` mermaid",
    ],
)  # fmt: skip
def test_inert_text_opens_nothing_and_can_be_had_back(text: str) -> None:
    shown = inert(text)
    assert not re.search(r"<[A-Za-z/!?]|!\[|```mermaid", shown)
    assert shown.replace(MARK, "") == text
    assert plain(shown) == text
    assert inert(shown) == shown


def test_ordinary_text_is_left_alone() -> None:
    for text in ("你好！[链接](x)", "a < b and c > d", "5 <6", "```python\nx\n```", "nice! [x](y)", f"a{MARK}b"):
        assert inert(text) == text
        assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        (r"$a^2$, \(b\), $$c$$ and \[d\]", r"$·a^2·$, \(·b·\), $$·c·$$ and \[·d·\]"),
        ("用$a$表示 $x$=$y$", "用$·a·$表示 $·x·$=$·y·$"),
        ("$$\na\n\nb\n$$", "$$·\na\n\nb\n·$$"),
        ("$ a = b $", "$· a = b ·$"),
        (r"$\$5$", r"$·\$5·$"),
        ("`unclosed $x$", "`unclosed $·x·$"),
        ("- ```\n  $x$\n  ```\n  $y$", "- ```\n  $x$\n  ```\n  $·y·$"),
    ],
)
def test_formulas_are_marked(text: str, marked: str) -> None:
    assert inert(text) == marked.replace("·", MARK)
    assert plain(inert(text)) == text
    assert inert(inert(text)) == inert(text)


@pytest.mark.parametrize(
    "text",
    [
        "$5 and $6", "US$5, HK$6", "$5 to $6.", r"\$5 and \$6", "$x\ny$", "$", "$$", "$$$$", r"\[ \[", r"\(a",
        "`$x$` ``$y$``", "```bash\necho $HOME\n```\nand\n```bash\necho $PATH\n```", "~~~\n$x$", "$HOME and $PATH",
    ],
)  # fmt: skip
def test_what_is_no_formula_is_not_marked(text: str) -> None:
    assert inert(text) == text


def test_a_formula_holds_nothing_that_is_drawn_or_opens_a_tag() -> None:
    text = "$a<b$ and $n![k]$ and $$\n```mermaid\n```\n$$"
    shown = inert(text)
    assert not re.search(r"<[A-Za-z/!?]|!\[|```mermaid", shown)
    assert shown.count(MARK) == 6
    assert plain(shown) == text


@pytest.mark.parametrize("part", ["$$a", "$ ", "$a", r"\[", r"\(", "` ", "```\n", "$ =", "~~~a\n"])
def test_long_texts_are_marked_in_no_time(part: str) -> None:
    start = time.process_time()
    inert(part * 50_000)
    assert time.process_time() - start < 2


# --- the gate

Headers = dict[bytes, bytes]


def visit(
    path: str,
    method: str = "GET",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    *,
    root_path: str = "",
    query: bytes = b"",
    behind: Callable[..., Awaitable[None]] | None = None,
) -> tuple[int, Headers, bytes, list[str]]:
    """Status, headers and body that a visitor gets, and the sessions that were left."""
    sent: list[dict[str, Any]] = []
    left: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(PAGE))]}
        await send(start)
        await send({"type": "http.response.body", "body": PAGE[:20], "more_body": True})
        await send({"type": "http.response.body", "body": PAGE[20:]})

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    gate = Gate(behind or application, script="glm('</script>')", on_leave=left.append)
    scope = {
        "type": "http", "path": path, "method": method, "headers": list(headers), "query_string": query,
        "root_path": root_path,
    }  # fmt: skip
    asyncio.run(gate(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], dict(sent[0]["headers"]), body, left


def test_the_page_gets_its_script_and_a_policy_that_lets_no_other_run() -> None:
    status, headers, body, _ = visit("/")
    assert status == 200
    policy = headers[b"content-security-policy"].decode()
    nonces = set(re.findall(rb'<script nonce="([^"]+)"', body))
    assert len(nonces) == 1
    assert f"'nonce-{nonces.pop().decode()}'" in policy
    assert body.count(b"<script nonce=") == body.count(b"<script") == 3
    assert body.index(rb"glm('<\/script>')") < body.index(b"one()")
    assert headers[b"content-length"] == str(len(body)).encode()
    script_sources = next(part for part in policy.split("; ") if part.startswith("script-src")).split()
    assert "'unsafe-inline'" not in script_sources
    assert not re.search(r"https?:|\*", policy)


def test_nonces_are_used_once() -> None:
    assert len({visit("/")[1][b"content-security-policy"] for _ in range(5)}) == 5


def test_other_answers_pass_with_headers_that_keep_the_page_private() -> None:
    _, headers, body, _ = visit("/assets/index.js")
    assert body == PAGE
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"referrer-policy"] == b"no-referrer"
    assert headers[b"x-dns-prefetch-control"] == b"off"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/gradio_api/file/etc/passwd"),
        ("POST", "/gradio_api/upload"), ("GET", "/gradio_api/proxy=https://x.hf.space"),
        ("POST", "/gradio_api/call/send"), ("POST", "/gradio_api/run/send"), ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/component_server"), ("GET", "/gradio_api/deep_link"), ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"), ("GET", "/monitoring"), ("GET", "/docs"), ("GET", "/openapi.json"),
        ("POST", "/gradio_api/process_recording"), ("GET", "/gradio_api/dev/reload"), ("POST", "/"),
        ("DELETE", "/"), ("GET", "/gradio_api/queue/join"), ("GET", "/assetsx"), ("GET", "//"),
        ("GET", "/gradio_api/custom_component/x/client/y/z.js"), ("GET", "/gradio_api/token"),
        ("GET", "/gradio_api/heartbeat/x"), ("POST", "/gradio_api/vibe-edit"), ("GET", "/pwa_icon"),
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(method: str, path: str) -> None:
    status, _, body, _ = visit(path, method, ((b"content-length", b"2"),))
    assert (status, body) == (404, b"There is nothing here.")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (((b"content-length", b"2"),), 200),
        ((), 411),
        (((b"transfer-encoding", b"chunked"),), 411),
        (((b"content-length", b"-1"),), 411),
        (((b"content-length", str(MAX_BODY + 1).encode()),), 413),
    ],
)
def test_requests_are_bounded(headers: tuple[tuple[bytes, bytes], ...], status: int) -> None:
    assert visit("/gradio_api/queue/join", "POST", headers)[0] == status


def test_a_path_left_by_a_proxy_is_seen_through() -> None:
    assert visit("/glm/", root_path="/glm")[0] == 200
    assert visit("/glm", root_path="/glm")[0] == 200
    assert visit("/glm/gradio_api/file=/etc/passwd", root_path="/glm")[0] == 404
    assert visit("/gradio_api/queue/data", root_path="/glm")[0] == 200


def test_nobody_leaves_who_was_told_all() -> None:
    assert visit("/gradio_api/queue/data", query=b"session_hash=abc")[3] == []


def test_a_closed_page_is_told() -> None:
    async def closed(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    left: list[str] = []
    gate = Gate(closed, script="", on_leave=left.append)
    scope = {
        "type": "http", "path": "/gradio_api/queue/data", "method": "GET", "headers": [],
        "query_string": b"session_hash=abc",
    }  # fmt: skip

    async def send(message: Any) -> None:
        pass

    async def receive() -> Any:
        pass

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(gate(scope, receive, send))
    assert left == ["abc"]


def test_websockets_are_not_spoken() -> None:
    called: list[str] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope["type"])

    async def talk() -> None:
        gate = Gate(behind, script="", on_leave=called.append)
        await gate({"type": "websocket", "path": "/"}, None, None)  # type: ignore[arg-type]
        await gate({"type": "lifespan"}, None, None)  # type: ignore[arg-type]

    asyncio.run(talk())
    assert called == ["lifespan"]
