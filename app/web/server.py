"""Serve the web page: start Gradio on a port, with the page's script, style sheet and fonts."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from glm_model.process import signals
from glm_model.text.sanitize import harmless

from ..names import INSTALLED
from ..options import Options
from ..proxies import no_proxy
from ..serving.engine import Engine
from ..startup import collector_paused
from . import wording
from .chat import Visitors
from .page import build
from .security import Gate

ASSETS = Path(__file__).parent / "assets"

# Fonts of the system: none is downloaded, and Chinese text gets Chinese glyphs instead of Japanese ones.
FONTS = [
    "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "PingFang SC",
    "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "sans-serif",
]  # fmt: skip
MONO_FONTS = [
    "ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "DejaVu Sans Mono",
    "PingFang SC", "Microsoft YaHei", "Noto Sans Mono CJK SC", "monospace",
]  # fmt: skip


def run(options: Options) -> int:
    """Load the model that `options` name and serve the page until Ctrl-C or SIGTERM.

    Return the exit code of the program: 0, or 1 after a message on standard error.
    """
    try:
        port = free_port(options.host, options.port)  # before the model is loaded, which may take minutes
        with collector_paused():
            engine = Engine.from_options(options)
        with engine:
            return serve(engine, replace(options, port=port))
    except (ValueError, OSError, RuntimeError, MemoryError, ImportError) as error:  # GLMError is a ValueError
        return _fail(str(error) or "out of memory")
    except KeyboardInterrupt:  # while the page is not served yet
        return 0


def serve(engine: Engine, options: Options) -> int:
    """Print the address of the page, serve it until Ctrl-C or SIGTERM, and return the exit code as `run` does."""
    visitors = Visitors()
    page = build(engine, options, visitors)
    try:
        start(page, options, visitors)
    except Exception as error:  # Gradio raises various types if its server does not start
        return _fail(f"the page could not be started: {error}")
    if engine.model_info.kernel:
        print(f"INT4/INT8: {engine.model_info.kernel}")
    print(_addresses(page, options), _capacity(engine), sep="\n", flush=True)
    try:
        signals.answer(sigint=signals.Answer.UNWIND, sigterm=signals.Answer.UNWIND)
        _sleep_for_good()
    except (KeyboardInterrupt, SystemExit):
        engine.close()  # ends the answers, for which the page would wait
        page.close(verbose=False)
    return 0


def _sleep_for_good() -> None:
    while True:
        time.sleep(3600)


def start(page: gr.Blocks, options: Options, visitors: Visitors) -> None:
    """Start the server in the background."""
    # Gradio prints advice for its own users, on sharing and on downloads, which is hidden here.
    proxy = contextlib.nullcontext() if options.share else no_proxy()
    with proxy, contextlib.redirect_stdout(io.StringIO()):
        page.launch(**launch_arguments(options, visitors), prevent_thread_lock=True)
    # While this attribute is set, Gradio's page loads its scripts from Gradio's own host.
    page.share = False


def _capacity(engine: Engine) -> str:
    """Return the sentence on how many answers are written at the same time."""
    state = engine.state
    if state.most_rows == 1:
        return "One answer is written at a time."
    cache = f"{state.cache_tokens * state.token_bytes / 1e9:.1f} GB for the keys and values of {state.cache_tokens:,}"
    return f"Up to {state.most_rows} answers are written at the same time (--max-rows); {cache} tokens (--cache-gb)."


def _addresses(page: gr.Blocks, options: Options) -> str:
    lines = [f"GLM: {page.local_url}  (Ctrl-C to stop / 按 Ctrl-C 停止)"]
    if page.share_url:
        lines.append(f"Public link: {page.share_url}")
    elif options.share:
        lines.append("There is no public link: Gradio's servers cannot be reached. The page runs here only.")
    return "\n".join(lines)


def _fail(sentence: str) -> int:
    # The sentence may hold text of a file or of the network, which must not control the terminal.
    print(f"{'glm-web' if INSTALLED else 'web_demo'}: {harmless(sentence)}", file=sys.stderr)
    return 1


def launch_arguments(options: Options, visitors: Visitors) -> dict[str, Any]:
    """Return the arguments of `launch`: Gradio sends nothing to other hosts and serves only what the page needs."""
    gate = Middleware(Gate, script=page_script(options), on_leave=visitors.stop)
    return {
        "server_name": f"[{options.host}]" if ":" in options.host else options.host,
        "server_port": options.port,
        "root_path": options.root_path or "",
        "auth": list(options.auth) or None,
        "share": options.share,
        "inbrowser": options.inbrowser,
        "theme": _theme(),
        "css_paths": ASSETS / "chat.css",
        "i18n": gr.I18n(**wording.interface(options.language)),
        "app_kwargs": {"middleware": [gate]},
        # Gradio's parallel jobs: all answers that the engine writes, its whole queue, and some more.
        "max_threads": options.max_rows + options.queue_size + 8,
        "state_session_capacity": 200,  # sessions whose last values Gradio keeps; the page needs none of them
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "ssr_mode": False,
        "pwa": False,
        "show_error": False,
        "quiet": True,
    }


def _theme() -> gr.themes.Base:
    theme = gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=MONO_FONTS)
    # Gradio's own greys have too little contrast for some readers.
    return theme.set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def page_script(options: Options) -> str:
    """Return the page's script, preceded by the settings that come from the server."""
    languages: tuple[wording.Language, ...] = ("en", "zh")
    settings = {
        "language": options.language,
        "words": {language: wording.list_words(language) for language in languages},
    }
    script = (ASSETS / "chat.js").read_text(encoding="utf-8")
    return f"const settings = {json.dumps(settings)};\n{script}"


def free_port(host: str, port: int) -> int:
    """Return `port` if it is free, or any free port for 0. Raise OSError with the reason for the user if it is not."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server(address[:2], family=family) as server:
            return int(server.getsockname()[1])
    except (OSError, UnicodeError) as error:
        raise OSError(f"cannot listen on {host}:{port}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    known = {
        errno.EADDRINUSE: "the port is in use; choose another with --port",
        errno.EACCES: "this port needs more rights; choose one above 1023 with --port",
        errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --host",
    }
    if isinstance(error, socket.gaierror | UnicodeError):
        return "there is no such address; choose another with --host"
    return known.get(getattr(error, "errno", None) or 0, str(error))
