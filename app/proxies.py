"""Doing without the proxy that the environment names, where only this machine is talked to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_proxy() -> Iterator[None]:
    """While the block runs, the environment names no proxy.

    Gradio makes an HTTP client when it is imported, which fails where a SOCKS proxy is set and the package for it is
    missing; and asks its own server whether it is up, which no proxy of another machine could reach.
    """
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}
    try:
        yield
    finally:
        os.environ.update(kept)
