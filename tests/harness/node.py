"""A node as its operator sees it: a folder, `hashfed serve` as a process, commands.

Tests, faults, the demonstration and the benchmark drive nodes with it. If there is a fork server,
it forks the commands, which takes a hundredth of the time. Otherwise commands are started as new
processes.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar

from tests.harness.forkserver import ForkServer
from tests.harness.signals import signals_held

_T = TypeVar("_T")

SECONDS = 30.0
END_SECONDS: Final = 180.0
"""How long a command may take: much longer than usual, as the machine may be busy."""
_MAX_BYTES: Final = 64 * 1024 * 1024
"""The largest output of a command."""
PROGRAM = Path(sys.executable).with_name("hashfed")
# Below the ports that the system gives to outgoing connections: one of those could take a node's
# port while the node is down.
_PORTS = range(20_000, 32_000)
_QUICK: Mapping[str, str] = {
    "HASHFED_LOG_FORMAT": "json",
    "HASHFED_SYNC_INTERVAL_SECONDS": "1",
    "HASHFED_SYNC_HEARTBEAT_SECONDS": "1",
    "HASHFED_SYNC_IDLE_TIMEOUT_SECONDS": "5",
}


def eventually(
    look: Callable[[], _T | None], what: Callable[[], object] = str, *, seconds: float = SECONDS
) -> _T:
    """Look until something is found, and return it; `what` says what is there instead."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what()}"
        time.sleep(0.01)


class _Reserved:
    """Ports that were given out to any process, even if nobody listens on them yet."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        # One file for all processes: the process that has port n locks its n-th byte until it ends.
        path = Path(tempfile.gettempdir()) / f"hashfed-ports-{os.getuid()}"
        self._file = path.open("ab")

    def take(self, port: int) -> bool:
        """Take a port if nobody has it; return whether it was free."""
        if port in self._given:
            return False
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        self._given.add(port)
        return True


_reserved = cache(_Reserved)


def unused_port() -> int:
    """Return a port that nobody listens on now. Another process may get the same one."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def free_port() -> int:
    """Return a port that nobody has now and that no other test will get."""
    while not _reserved().take(port := unused_port()):
        pass
    return port


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401  # whatever the command prints
        return json.loads(self.out)

    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Process(Protocol):
    """A running process of the program."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""

    def kill(self) -> None:
        """Send it SIGKILL."""

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended."""


class Running:
    """A running command and its output.

    Attributes:
        what: the command line, for messages.
        process: its process.
    """

    def __init__(self, node: Node, args: tuple[str | Path, ...], stdin: str) -> None:
        self.what = f"{node.org} {' '.join(map(str, args))}"
        self._of = node.running
        self._out: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `abandon`
        self._err: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        with signals_held():
            self.process = node.start(
                *args, stdin=stdin, out=self._out.fileno(), err=self._err.fileno()
            )
            self._of.append(self)

    def written(self) -> bytes:
        """Return what it has written to stderr so far."""
        return os.pread(self._err.fileno(), _MAX_BYTES, 0)

    def end(self, timeout: float = END_SECONDS) -> Result:
        """Wait for its end, and return how it ended.

        Args:
            timeout: how long it may take, in seconds.

        Raises:
            TimeoutError: it has not ended.
        """
        try:
            code = self.process.wait(timeout)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise TimeoutError(f"{self.what} did not end within {timeout:g} s") from None
        texts = [os.pread(file.fileno(), _MAX_BYTES, 0).decode() for file in (self._out, self._err)]
        self.abandon()
        return Result(code, *texts)

    def abandon(self) -> None:
        """Kill it if it is still running, and discard its output."""
        self._of.remove(self)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._out.close()
        self._err.close()


class Node:
    """One organization's node.

    Attributes:
        org: the organization.
        home: the node's folder.
        port: where it serves.
        server: its `hashfed serve`, if there is one.
        running: its commands that have not ended.
        patience: how long its server may take to start and to end, in seconds.
        settings: the environment of its server, besides HOME and PATH.
    """

    patience = SECONDS
    settings: Mapping[str, str] = _QUICK

    def __init__(
        self,
        folder: Path,
        org: str,
        forks: ForkServer | None = None,
        env: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        init: bool = True,
    ) -> None:
        """Make a node.

        Args:
            folder: where its folder and its log are made.
            org: its organization.
            forks: starts its commands; None to start them as new processes.
            env: its environment, besides HOME and PATH.
            port: where it serves; None for one that no other test gets.
            init: whether to run `hashfed init`.
        """
        self.org = org
        self.home = folder / org.partition(".")[0]
        self.port = free_port() if port is None else port
        self.server: Process | None = None
        self.running: list[Running] = []
        self._forks = forks
        self._log = folder / f"{self.home.name}.log"
        self._env = {"HOME": str(folder), "PATH": os.defpath, **(env or {})}
        if init:
            self("init", "--org", org, "--listen", f"127.0.0.1:{self.port}")

    # --- commands -----------------------------------------------------------------------------

    def __call__(self, *args: str | Path, stdin: str = "", code: int = 0) -> Result:
        """Run a command to its end, and require this exit code."""
        running = Running(self, args, stdin)
        try:
            result = running.end()
        finally:
            if running in self.running:
                running.abandon()
        assert result.code == code, (args, result)
        assert "Traceback" not in result.err, result.err
        return result

    def start(
        self,
        *args: str | Path,
        stdin: str = "",
        out: int | None = None,
        err: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a command, with settings in its environment."""
        with tempfile.TemporaryFile() as source, Path(os.devnull).open("wb") as nowhere:
            source.write(stdin.encode())
            source.seek(0)
            streams = (
                source.fileno(),
                nowhere.fileno() if out is None else out,
                nowhere.fileno() if err is None else err,
            )
            argv = ["--home", str(self.home), *map(str, args)]
            env = {**self._env, **(settings or {})}
            if self._forks is None:
                return self._spawn(argv, env, streams)
            return self._forks.start(argv, cwd=self.home.parent, env=env, streams=streams)

    def _spawn(
        self,
        argv: Iterable[str],
        env: Mapping[str, str],
        streams: tuple[int, int, int],
        wrap: Iterable[str] = (),
    ) -> subprocess.Popen[bytes]:
        """Start the program as a new process that the terminal's Ctrl-C does not reach."""
        stdin, stdout, stderr = streams
        return subprocess.Popen(
            [*wrap, str(PROGRAM), *argv],
            cwd=self.home.parent,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def error(self, *args: str | Path, code: int, stdin: str = "") -> dict[str, Any]:
        """Run a command that fails; return its error object."""
        result = self("--json", *args, stdin=stdin, code=code)
        found: dict[str, Any] = json.loads(result.err.splitlines()[-1])["error"]
        assert found["exit_code"] == code
        return found

    def shell(self, script: str, folder: Path) -> str:
        """Run commands as an operator's shell would, in a folder; return what they print."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={
                **self._env,
                "PATH": f"{PROGRAM.parent}{os.pathsep}{os.defpath}",
                "HASHFED_HOME": str(self.home),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS * 2,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    # --- what operators do --------------------------------------------------------------------

    def meet(self, *others: Node) -> None:
        """Make this node and others peers of each other."""
        for one, other in [(self, other) for other in others] + [(other, self) for other in others]:
            one("peer", "add", "--yes", "-", stdin=other("invite").out)

    def create(self, name: str, audience: str = "all-peers") -> str:
        """Create a list; return its full name."""
        self("list", "create", name, "--audience", audience)
        return f"{self.org}/{name}"

    def stage(self, name: str, changes: Iterable[str]) -> None:
        """Import changes."""
        self("import", name, "-", stdin="".join(f"{change}\n" for change in changes))

    def publish(self, name: str, *entries: int) -> int:
        """Publish entries; return how many deltas the list has now."""
        self.stage(name, map(assertion, entries))
        position: int = self("publish", name, "--json").json()["position"]
        return position

    # --- the server ---------------------------------------------------------------------------

    def serve(self, *, wrap: Iterable[str] = (), **settings: str) -> Process:
        """Start serving, wait until peers can call, and return the server."""
        assert self.server is None
        start = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log, signals_held():
            server = self._start_server(wrap, {**self.settings, **settings}, log.fileno())
            self.server = server

        def is_ready() -> bool:
            assert server.poll() is None, self.log()
            return b'"serving"' in self._log.read_bytes()[start:]

        eventually(is_ready, self.log, seconds=self.patience)
        return server

    def _start_server(self, wrap: Iterable[str], settings: Mapping[str, str], log: int) -> Process:
        return self._spawn(
            ["--home", str(self.home), "serve"],
            {**self._env, **settings},
            (subprocess.DEVNULL, log, log),
            wrap,
        )

    def log(self) -> str:
        """Return what the server has written."""
        return self._log.read_text() if self._log.exists() else ""

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """End the server as a service manager would; return its exit code."""
        return self._signal(signal.SIGTERM)

    def abandon(self) -> None:
        """Kill everything that was started here and is still running."""
        for running in tuple(self.running):
            running.abandon()
        self.kill()

    def _signal(self, number: int) -> int:
        if self.server is None:
            return 0
        server, self.server = self.server, None
        server.send_signal(number)
        return server.wait(timeout=self.patience)

    # --- what is here -------------------------------------------------------------------------

    def status(self, origin: str) -> dict[str, Any]:
        """Return the status of a list here."""
        lists = self("status", "--json").json()["lists"]
        found: dict[str, Any] = next(item for item in lists if item["list"] == origin)
        return found

    def await_status(self, origin: str, *, seconds: float = SECONDS, **wanted: object) -> None:
        """Wait until a list's status has these values."""
        eventually(
            lambda: wanted.items() <= self.status(origin).items(),
            lambda: (wanted, self.status(origin), self.log()),
            seconds=seconds,
        )

    def headers(self, origin: str) -> dict[int, str]:
        """Return the hash of each delta's header by position."""
        lines = self("log", origin, "--json").json_lines()
        return {line["position"]: line["delta"] for line in lines}

    def export(self, origin: str) -> str:
        """Return the live entries of a list."""
        return self("export", origin).out

    def content(self) -> tuple[object, ...]:
        """Return what the node holds of all lists, for a later comparison."""
        lists = [line["list"] for line in self("list", "--json").json_lines()]
        return tuple((origin, self.export(origin), self.headers(origin)) for origin in lists)

    def check(self) -> None:
        """Check that everything that is stored is sound."""
        assert self("fsck", "--json").json()["ok"]


def digest(number: int) -> str:
    """Return the SHA-256 of the entry with that number, in hex."""
    return f"{number + 2**40:064x}"


def assertion(number: int, label: str = "A1") -> str:
    """Return the change that asserts an entry."""
    return f'{{"op":"assert","fingerprints":{{"sha256":"{digest(number)}"}},"labels":["{label}"]}}'
