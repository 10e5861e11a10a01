"""Ask the web chat of this container whether it answers: the image's health check.

The exit status is 0 if it does, or if the container runs something else than the web chat; otherwise 1.
"""

import contextlib
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from app.options import parse_web

WEB = "/app/web_demo.py"


def _commands() -> Iterator[list[str]]:
    """Yield the words of every process's command line; the first process may be an init that `--init` has started."""
    for process in sorted(Path("/proc").glob("[0-9]*/cmdline")):
        with contextlib.suppress(OSError):  # ended in the meantime
            yield process.read_text(encoding="utf-8", errors="surrogateescape").split("\0")[:-1]


def main() -> int:
    """Ask, and return the exit status."""
    command = next((command for command in _commands() if WEB in command), None)
    if command is None:
        return 0
    options = parse_web(command[command.index(WEB) + 1 :])
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host
    address = f"http://[{host}]:{options.port}/" if ":" in host else f"http://{host}:{options.port}/"
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=8) as answer:
            return int(answer.status != 200)
    except OSError as error:
        print(f"{address}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
