"""A web chat that really listens, with a model made of plain Python behind it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import gradio as gr

from app.options import Options
from app.serving.engine import Engine
from app.web.chat import Visitors
from app.web.page import build
from app.web.server import free_port, start
from tests.app.fakes import FakeFill, FakeModel, FakeStream, FakeTokenizer


@dataclass
class Site:
    """A running page and the model behind it."""

    url: str
    stream: FakeStream
    page: gr.Blocks
    engine: Engine
    fill: FakeFill

    def hold(self) -> threading.Semaphore:
        """From now on the model writes a token for each release of the semaphore, and no other."""
        self.stream.gate = self.fill.gate = threading.Semaphore(0)
        return self.stream.gate

    def let_go(self) -> None:
        """Let the model write freely again."""
        gate, self.stream.gate, self.fill.gate = self.stream.gate, None, None
        if gate is not None:
            gate.release(1_000_000)


def open_site(options: Options | None = None, *, is_demo: bool = True) -> Site:
    """Start a server on a free port of this machine. The caller closes `page` and `engine`."""
    stream, fill = FakeStream(), FakeFill()
    options = options or Options()
    engine = Engine(
        FakeModel(is_demo=is_demo), FakeTokenizer(), queue_size=options.queue_size, write_text=stream, write_fill=fill
    )
    options = replace(options, host="127.0.0.1", port=free_port("127.0.0.1", 0))
    visitors = Visitors()
    page = build(engine, options, visitors)
    start(page, options, visitors)
    return Site(str(page.local_url), stream, page, engine, fill)


def close_site(site: Site) -> None:
    """End a server and its model."""
    site.let_go()
    site.engine.close()
    site.page.close(verbose=False)
