"""Hide the proxy settings of the environment while a program connects to its own machine only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_proxy() -> Iterator[None]:
    """Remove all `*_proxy` environment variables while the block runs, and restore them afterwards.

    Gradio needs this twice. At import it creates an HTTP client, which fails if a SOCKS proxy is set and the package
    for SOCKS is missing. After its start it requests a page from its own server, which a proxy on another machine
    cannot reach.
    """
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}
    try:
        yield
    finally:
        os.environ.update(kept)
