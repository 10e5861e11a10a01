"""What keeps the page private and safe: text made inert, and a gate in front of Gradio's server.

Three walls stand one behind the other, so that a hole in one of them stays harmless:

1. `inert` breaks every place where Markdown could become HTML, an image or a diagram. No `<` that reaches the
   page is followed by a character that opens a tag, whatever the Markdown parser makes of the rest.
2. Gradio's own sanitizer, which it applies to what the Markdown parser returns.
3. A Content-Security-Policy: only the page's own scripts run, and nothing loads from another host.

The gate also closes every route of Gradio that the chat does not use, such as uploads, files of the machine and
its proxy, and bounds the size of a request. It knows Gradio's addresses but imports nothing of it.
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

MARK = "\N{WORD JOINER}"  # no width, no line break, and never part of a tag's name
_OPENS = re.compile(
    r"<(?=[A-Za-z/!?])"  # a tag, comment, declaration or processing instruction of HTML
    r"|!(?=\[)"  # an image of Markdown: it would load by itself, from any host or from this one
    r"|```(?=mermaid)"  # Gradio draws these as diagrams, whose labels are HTML again
)

# Gradio takes all between two dollars for a formula, be they two prices or two variables in the code of two blocks,
# and leaves the Markdown between them as it is. So only what is marked is a formula to it.
DELIMITERS = (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$"))
_BEGINS, _ENDS = ("|".join(map(re.escape, delimiters)) for delimiters in zip(*DELIMITERS, strict=True))
_FORMULA = re.compile(
    r"""
    (?P<code>
        ^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(?P<fence>```+|~~~+).*?(?:^[ \t>]*(?P=fence)|\Z)
        | (?<!`)(?P<ticks>``?)(?!`)[^\n]+?(?<!`)(?P=ticks)(?!`)
        | \\\$
    )
    # No formula holds what begins another: the search takes no longer than the text is long.
    | (?<!MARK)\$\$(?!MARK)(?:(?!\$\$).)+\$\$
    | \\\[(?!MARK)(?:(?!\\\[|\\\]).)+\\\]
    | \\\((?!MARK)(?:(?!\\\(|\\\)|\n).)+\\\)
    # One dollar may be money. A formula touches both of its dollars and is followed by no digit, as Pandoc has it, or
    # stands off from both and looks like one.
    | (?<!MARK)\$(?![\s$]|MARK)(?:\\.|[^\\$\n])*?(?<!\s)\$(?![\d$])
    | (?<!MARK)\$[ ](?=[^$\n]*[\\^_={])(?:\\.|[^\\$\n])*?[ ]\$(?![\d$])
    """.replace("MARK", MARK),
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
# In a formula only white space is invisible; a text has this kind before a line feed at most, never where the mark is.
MARK_IN_FORMULA = "\r"
_MARKED = re.compile(rf"(<|!|```|{_BEGINS}){MARK}|{MARK}({_ENDS})|(<|!|```){MARK_IN_FORMULA}(?=[A-Za-z/!?\[])")


def inert(text: str) -> str:
    """`text` for the page: it looks the same, and no part of it can become a tag, an image or a diagram."""
    return _OPENS.sub(lambda opening: opening[0] + MARK, _FORMULA.sub(_marked_formula, text))


def _marked_formula(found: re.Match[str]) -> str:
    text = found[0]
    if found["code"] is not None:
        return text
    begin, end = next(pair for pair in DELIMITERS if text.startswith(pair[0]))
    formula = text.removeprefix(begin).removesuffix(end)
    return begin + MARK + _OPENS.sub(lambda opening: opening[0] + MARK_IN_FORMULA, formula) + MARK + end


def plain(text: str) -> str:
    """The text that `inert` was given. The page's script does the same to what a visitor copies."""
    return _MARKED.sub(lambda marked: marked[1] or marked[2] or marked[3], text)


# --- the gate ----------------------------------------------------------------------------------------------

# What the page asks for, by method; a path ending in / stands for all below it.
ROUTES: dict[str, tuple[str, ...]] = {
    "GET": (
        "/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/logout",
        "/assets/", "/static/", "/svelte/",
        "/gradio_api/startup-events", "/gradio_api/queue/data", "/gradio_api/theme.css",
        "/gradio_api/login_check", "/gradio_api/user",
        "/gradio_api/app_id",  # asked for when the connection was lost: without an answer the page stays dead
    ),
    "POST": (
        "/login", "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel", "/gradio_api/reset",
    ),
}  # fmt: skip
MAX_BODY = 16_000_000  # bytes: a conversation of MAX_IMPORT_CHARS characters in any script

POLICY = "; ".join(
    (
        "default-src 'self'",
        # unsafe-eval lets Gradio compile the functions that the server sent with the page. It lets no text
        # of the page become a script: for that a script would have to run already.
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
    (b"x-dns-prefetch-control", b"off"),  # else the browser looks up the hosts of links it merely shows
)


class Gate:
    """ASGI middleware in front of Gradio.

    Args:
        application: the server behind the gate.
        script: JavaScript that the page runs before anything else.
        on_leave: called with a visitor's session when the page was closed before all events had been told.
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
        # Nothing here speaks WebSocket: returning without accepting refuses the connection.

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
        """The stream of events to a page; it has an end only if nothing is left to tell."""
        told_all = False

        async def watched(message: Message) -> None:
            nonlocal told_all
            await send(message)
            told_all = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._application(scope, receive, watched)
        finally:
            if not told_all:
                self._on_leave(_session(scope))


def _route(scope: Scope) -> str:
    """The path below the one that a reverse proxy may have left in front."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] or "/" if root and path.startswith(root) else path


def _refusal(scope: Scope, path: str) -> tuple[int, str] | None:
    """Status and sentence for a request that does not pass, None for one that does."""
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
    """Holds the HTML page back until it is whole, then gives its scripts the nonce and adds ours in front."""

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
        # Gradio writes its configuration into the page with every < escaped: these are the template's own.
        body = self._body.replace(b"<script", self._opening)
        body = body.replace(b"<head>", b"<head>" + self._opening + b">" + self._script + b"</script>", 1)
        headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        headers += [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
