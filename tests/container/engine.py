"""Run podman or docker for the tests: build images as README.md says, and run containers of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.12-slim"
STAND_IN = "localhost/glm-base"

# For podman as root in a container or a small virtual machine: no systemd, limits that a container may have there.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:20000", "nproc=20000:20000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class UnavailableError(Exception):
    """Why images cannot be built and run here."""


def why_not() -> str | None:
    """Return why no image can be built here, None if there is an engine and the right to use it."""
    if not shutil.which("podman"):
        return None if shutil.which("docker") else "no podman, no docker (apt install podman runc mmdebstrap)"
    if os.getuid() != 0:
        return "podman's cases need root"
    return None if shutil.which("runc") else "podman's cases need runc (apt install runc)"


@dataclass
class Result:
    """How a command of the engine ended."""

    status: int
    output: str
    errors: str


class Engine:
    """podman with images of its own, or docker; to be made only if :func:`why_not` knows no reason.

    Args:
        folder: for podman's images and containers; what is in it from an earlier run is used again.

    Raises:
        UnavailableError: there is no base image.
    """

    def __init__(self, folder: Path) -> None:
        self._environment = dict(os.environ)
        self._folder = folder
        self._containers: list[str] = []
        self._command = ["docker"]
        if shutil.which("podman"):
            (folder / "containers.conf").write_text(CONTAINERS_CONF, encoding="utf-8")
            self._environment["CONTAINERS_CONF"] = str(folder / "containers.conf")
            self._command = ["podman", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        self.is_podman = self._command[0] == "podman"
        self.base = self._find_base()

    def __call__(self, *arguments: str, status: int | None = 0, timeout: float = 120) -> Result:
        """Run a command of the engine, and fail if its exit status is not ``status``; None allows any."""
        print("$", self._command[0], *arguments, flush=True)
        done = subprocess.run(
            [*self._command, *arguments], env=self._environment, capture_output=True, text=True, timeout=timeout
        )
        assert status is None or done.returncode == status, done.stdout[-4000:] + done.stderr[-4000:]
        return Result(done.returncode, done.stdout, done.stderr)

    def _find_base(self) -> str:
        """Return the base image of the Dockerfile, or where no registry can be reached one of Debian's packages."""
        if self("pull", "--quiet", BASE, status=None, timeout=300).status == 0:
            return BASE
        if not self.is_podman or not shutil.which("mmdebstrap"):
            raise UnavailableError(f"{BASE} cannot be pulled, and there is no mmdebstrap to make a base image with")
        if self("image", "exists", STAND_IN, status=None).status == 0:
            return STAND_IN
        archive = self._folder / "base.tar"
        packages = "ca-certificates,python3,python3-pip,python-is-python3"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={packages}", "bookworm", archive],
            check=True,
        )
        self("import", str(archive), STAND_IN, timeout=300)
        archive.unlink()
        return STAND_IN

    def build(self, tag: str, *arguments: str, context: Path = ROOT) -> None:
        """Build an image, with what this machine's pip is configured with."""
        form = ["--format", "docker", "--network", "host", *self._pip_mounts()] if self.is_podman else []
        self("build", *form, *arguments, "--tag", tag, str(context), timeout=900)

    def _pip_mounts(self) -> list[str]:
        """Return the flags that show pip in a build the certificates and the local packages of this machine."""
        kept, lines = [], ["[global]"]
        for name, where in (("cert", "PIP_CERT"), ("find-links", "PIP_FIND_LINKS")):
            if path := os.environ.get(where):
                kept += ["--volume", f"{path}:{path}:ro"]
                lines.append(f"{name} = {path}")
        (self._folder / "pip.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [*kept, "--volume", f"{self._folder}/pip.conf:/etc/pip.conf:ro"]

    def start(self, image: str, *arguments: str, flags: tuple[str, ...] = ()) -> Container:
        """Start a container in the background, without an init, and return it."""
        name = self("run", "--detach", *flags, image, *arguments).output.split()[-1]
        self._containers.append(name)
        return Container(self, name)

    def run(self, image: str, *arguments: str, flags: tuple[str, ...] = (), status: int | None = 0) -> Result:
        """Run a container to its end."""
        return self("run", "--rm", *flags, image, *arguments, status=status, timeout=300)

    def clean(self, keep_images: bool) -> None:
        """Remove the containers, and podman's images."""
        for name in self._containers:
            self("rm", "--force", "--volumes", name, status=None)
        if self.is_podman and not keep_images:
            self("system", "reset", "--force", status=None)


@dataclass
class Container:
    """A container that runs in the background."""

    engine: Engine
    name: str

    def log(self) -> str:
        """Return what it has written."""
        result = self.engine("logs", self.name)
        return result.output + result.errors

    def wait_until_it_serves(self, patience: float = 120) -> str:
        """Return the address of its page as soon as the page is there."""
        end = time.monotonic() + patience
        while "Ctrl-C" not in self.log():
            state = self.engine("inspect", "--format", "{{.State.Running}}", self.name).output.strip()
            assert state == "true", self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.5)
        port = self.engine("port", self.name).output.rsplit(":", 1)[1].strip()
        return f"http://127.0.0.1:{port}"

    def stop(self) -> tuple[int, float]:
        """Stop it as `docker stop` does, and return its exit status and the seconds that took."""
        started = time.monotonic()
        self.engine("stop", "--time", "10", self.name)
        seconds = time.monotonic() - started
        return int(self.engine("inspect", "--format", "{{.State.ExitCode}}", self.name).output), seconds
