"""The page behind a reverse proxy that puts a path in front of it."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from playwright.sync_api import expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from app.options import Options
from app.web.server import free_port
from tests.app.sites import Site
from tests.browser.conftest import Visitor

PREFIX = "/glm"


@contextmanager
def proxy_to(upstream: str) -> Iterator[str]:
    """A proxy that takes PREFIX off, as nginx does with `location /glm/ { proxy_pass http://.../; }`."""
    client = httpx.AsyncClient(base_url=upstream, timeout=None, trust_env=False)

    async def forward(request: Request) -> Response:
        headers = [(name, value) for name, value in request.headers.raw if name != b"host"]
        url = request.url.path.removeprefix(PREFIX) + ("?" + request.url.query if request.url.query else "")
        sent = client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await client.send(sent, stream=True)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()

        return StreamingResponse(body(), answer.status_code, dict(answer.headers))

    application = Starlette(routes=[Route(PREFIX + "/{path:path}", forward, methods=["GET", "POST"])])
    port = free_port("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application, "127.0.0.1", port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}{PREFIX}/"
    server.should_exit = True
    server.force_exit = True
    thread.join(5)


def test_a_chat_through_a_proxy(site_with: Callable[..., Site], visit: Callable[..., Visitor]) -> None:
    site = site_with(Options(root_path=PREFIX))
    with proxy_to(site.url) as address:
        visitor = visit(address)
        assert visitor.ask("hello") == "You said: hello"
        site.hold()
        visitor.type_and_send("more")
        expect(visitor.line).to_contain_text("Thinking")
        visitor.stop()
        site.let_go()
        visitor.wait_until_idle()
        expect(visitor.line).to_have_text("Stopped.")
        own = [url for url in visitor.requests if not url.startswith(address)]
        assert own == []
