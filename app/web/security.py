"""Protect the page: make text inert, and restrict the access to Gradio's server.

There are three independent layers, so that a fault in one of them does no harm:

1. `inert` breaks every place where Markdown could become HTML, an image or a diagram. In the text that reaches the
   page, no `<` is followed by a character that opens a tag, whatever the Markdown parser does.
2. Gradio's own sanitizer cleans the HTML that the Markdown parser returns.
3. A Content-Security-Policy lets only the page's own scripts run and blocks loading from other hosts.

The middleware `Gate` also closes all routes of Gradio that the page does not use, such as uploads, files of the
machine and Gradio's proxy, and limits the size of a request. It contains Gradio's paths but does not import Gradio.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# --- text --------------------------------------------------------------------------------------------------

MARK = "\N{WORD JOINER}"  # has no width, allows no line break, and cannot be part of a tag's name
_OPENS = re.compile(
    r"<(?=[A-Za-z/!?])"  # a tag, comment, declaration or processing instruction of HTML
    r"|!(?=\[)"  # an image of Markdown, which the browser would load from any host without a click
    r"|```(?=mermaid)"  # Gradio renders these as diagrams, whose labels are HTML
)

# Gradio treats everything between two dollars as a formula, even between two prices or two shell variables in separate
# code blocks, and does not render the Markdown there. Therefore the delimiters given to Gradio contain the mark, and
# `inert` adds it only to real formulas.
DELIMITERS = (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$"))
_BEGINS, _ENDS = ("|".join(map(re.escape, delimiters)) for delimiters in zip(*DELIMITERS, strict=True))
_FORMULA = re.compile(
    r"""
    (?P<code>
        ^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(?P<fence>```+|~~~+).*?(?:^[ \t>]*(?P=fence)|\Z)
        | (?<!`)(?P<ticks>``?)(?!`)[^\n]+?(?<!`)(?P=ticks)(?!`)
        | \\\$
    )
    # A formula cannot contain the opening delimiter of another one; this keeps the search linear in the text's length.
    | (?<!MARK)\$\$(?!MARK)(?:(?!\$\$).)+\$\$
    | \\\[(?!MARK)(?:(?!\\\[|\\\]).)+\\\]
    | \\\((?!MARK)(?:(?!\\\(|\\\)|\n).)+\\\)
    # A single dollar may be money. Either the formula touches both dollars and no digit follows (Pandoc's rule), or
    # there are spaces inside both dollars and a character that is typical of formulas.
    | (?<!MARK)\$(?![\s$]|MARK)(?:\\.|[^\\$\n])*?(?<!\s)\$(?![\d$])
    | (?<!MARK)\$[ ](?=[^$\n]*[\\^_={])(?:\\.|[^\\$\n])*?[ ]\$(?![\d$])
    """.replace("MARK", MARK),
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
# In a formula only white space is invisible. Texts contain a carriage return only before a line feed, so that this mark
# is unambiguous.
MARK_IN_FORMULA = "\r"
_MARKED = re.compile(rf"(<|!|```|{_BEGINS}){MARK}|{MARK}({_ENDS})|(<|!|```){MARK_IN_FORMULA}(?=[A-Za-z/!?\[])")


def inert(text: str) -> str:
    """Return `text` for the page: it looks the same, but no part of it can become a tag, an image or a diagram."""
    return _OPENS.sub(lambda opening: opening[0] + MARK, _FORMULA.sub(_marked_formula, text))


def _marked_formula(found: re.Match[str]) -> str:
    text = found[0]
    if found["code"] is not None:
        return text
    begin, end = next(pair for pair in DELIMITERS if text.startswith(pair[0]))
    formula = text.removeprefix(begin).removesuffix(end)
    return begin + MARK + _OPENS.sub(lambda opening: opening[0] + MARK_IN_FORMULA, formula) + MARK + end


def plain(text: str) -> str:
    """Return the text that was passed to `inert`. The page's script does the same with text that is copied."""
    return _MARKED.sub(lambda marked: marked[1] or marked[2] or marked[3], text)


# --- the gate ----------------------------------------------------------------------------------------------

# The paths that the page requests, by method; a path that ends in / includes all paths below it.
ROUTES: dict[str, tuple[str, ...]] = {
    "GET": (
        "/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/logout",
        "/assets/", "/static/", "/svelte/",
        "/gradio_api/startup-events", "/gradio_api/queue/data", "/gradio_api/theme.css",
        "/gradio_api/login_check", "/gradio_api/user",
        "/gradio_api/app_id",  # requested after a lost connection, to reconnect
    ),
    "POST": (
        "/login", "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel", "/gradio_api/reset",
    ),
}  # fmt: skip
MAX_BODY = 16_000_000  # bytes: a conversation of MAX_IMPORT_CHARS characters in any script

POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio needs unsafe-eval to compile the functions that the server sends with the page. It does not turn text
        # of the page into a script: only a script that runs already can call eval.
        "script-src 'self' 'nonce-{nonce}' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "frame-src 'none'",
        "form-action 'none'",
        "base-uri 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-dns-prefetch-control", b"off"),  # else the browser resolves the hosts of links before they are clicked
)


class Gate:
    """An ASGI middleware in front of Gradio that closes unused routes and adds security headers.

    Args:
        application: Gradio's ASGI application.
        script: JavaScript that the page runs first.
        on_leave: called with a visitor's session if the page was closed before all events had been sent.
    """

    def __init__(self, application: Application, *, script: str, on_leave: Callable[[str], None]) -> None:
        self._application = application
        self._script = script
        self._on_leave = on_leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; see https://asgi.readthedocs.io for the arguments."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        # Gradio does not use WebSocket; returning without accepting refuses the connection.

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _route(scope)
        if (refusal := _refusal(scope, path)) is not None:
            await _refuse(send, *refusal)
            return
        nonce = secrets.token_urlsafe(16)
        if path == "/":
            await self._application(scope, receive, _Page(send, nonce, self._script))
        elif path == "/gradio_api/queue/data":
            await self._events(scope, receive, _with_headers(send, nonce))
        else:
            await self._application(scope, receive, _with_headers(send, nonce))

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream of events to a page, and call `on_leave` if it ends before the last event was sent."""
        sent_all = False

        async def watched(message: Message) -> None:
            nonlocal sent_all
            await send(message)
            sent_all = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._application(scope, receive, watched)
        finally:
            if not sent_all:
                self._on_leave(_session(scope))


def _route(scope: Scope) -> str:
    """Return the path of a request without the root path that a reverse proxy may have left in front."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] or "/" if root and path.startswith(root) else path


def _refusal(scope: Scope, path: str) -> tuple[int, str] | None:
    """Return the status and the message for a request that is refused, None if it is allowed."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    if not any(path == route or (route[-1] == "/" != route and path.startswith(route)) for route in
               ROUTES.get(method, ())):  # fmt: skip
        return 404, "There is nothing here."
    if method == "POST":
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "The length of the request is missing."
        if int(length) > MAX_BODY:
            return 413, f"The request is larger than {MAX_BODY} bytes."
    return None


async def _refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})


def _session(scope: Scope) -> str:
    values = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])
    return values[0]


def _with_headers(send: Send, nonce: str) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            policy = POLICY.format(nonce=nonce).encode()
            own = ((b"content-security-policy", policy), *HEADERS)
            message["headers"] = [*message.get("headers", ()), *own]
        await send(message)

    return sender


class _Page:
    """An ASGI `send` that collects the HTML page, then adds the nonce to its scripts and our script in front."""

    def __init__(self, send: Send, nonce: str, script: str) -> None:
        self._send = _with_headers(send, nonce)
        self._opening = f'<script nonce="{nonce}"'.encode()
        self._script = script.replace("</", r"<\/").encode()
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._finish()

    async def _finish(self) -> None:
        # Gradio escapes every < of the configuration in the page, so each <script here is one of the template.
        body = self._body.replace(b"<script", self._opening)
        body = body.replace(b"<head>", b"<head>" + self._opening + b">" + self._script + b"</script>", 1)
        headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        headers += [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
