"""Three nodes in three folders, each driven by its own processes, as its operators would.

No process outlives the demonstration, however it ends.
"""

from __future__ import annotations

import os
import random
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from telling import DemoError, Teller

from federation.names import Origin
from node.clock import SystemClock
from node.errors import NodeError
from node.store import lists
from node.store.connection import Store
from scripts.ending import signals_held

_HASHFED: Final = Path(sys.executable).with_name("hashfed")
_READY_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0
_WAIT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.001
_LOG_LINES: Final = 15
_PORTS: Final = range(15_000, 20_000)
"""Below what systems give to outgoing connections, so that none of those takes one first."""

SERVE_ENVIRONMENT: Final = {"HASHFED_SYNC_INTERVAL_SECONDS": "2"}
"""A node of the demonstration tries again after two seconds at most, not after five minutes."""


class Node:
    """One organization's node.

    Attributes:
        org: the organization.
        name: the name of its folder.
        port: where it listens.
        folder: where the folders of all nodes lie.
    """

    def __init__(self, org: str, folder: Path, port: int, teller: Teller) -> None:
        self.org = org
        self.name = org.partition(".")[0]
        self.port = port
        self.folder = folder
        self._teller = teller
        self._commands: list[subprocess.Popen[str]] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._store: Store | None = None

    # --- commands -----------------------------------------------------------------------------

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command of this node."""
        with signals_held():
            process = subprocess.Popen(
                [_HASHFED, "--home", self.name, *arguments],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._commands.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], expect: int = 0) -> str:
        """Wait for a command and return what it printed on stdout.

        Raises:
            DemoError: it ended with another code than expected.
        """
        try:
            out, err = process.communicate(timeout=_WAIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"a command of {self.name} does not end") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        if process.returncode != expect:
            raise DemoError(
                f"a command of {self.name} exited with {process.returncode}, expected {expect}:\n"
                f"{err}{out}".rstrip()
            )
        # A refusal that was expected is the result.
        return out if not expect or out else err

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Run a command of this node and return what it printed on stdout.

        Raises:
            DemoError: it ended with another code than expected.
        """
        return self.finish(self.start(*arguments), expect)

    def show(self, *arguments: str, expect: int = 0, most: int = 40) -> str:
        """Run a command of this node, and show it with what it printed."""
        self._teller.command(self.line(*arguments))
        out = self.run(*arguments, expect=expect)
        self._teller.output(out.splitlines(), most)
        return out

    def line(self, *arguments: str) -> str:
        """Return a command line of this node as a person would type it."""
        return shlex.join(["hashfed", "--home", self.name, *arguments])

    # --- serving ------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        """What the serving process logs."""
        return self.folder / f"{self.name}.log"

    def serve(self) -> None:
        """Start serving and following; returns when peers can call.

        Raises:
            DemoError: it ended, or does not serve in time.
        """
        settings = " ".join(f"{key}={value}" for key, value in SERVE_ENVIRONMENT.items())
        self._teller.command(f"{settings} {self.line('serve')} &")
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as file, signals_held():
            self._server = subprocess.Popen(
                [_HASHFED, "--home", self.name, "serve"],
                cwd=self.folder,
                env={**_environment(), **SERVE_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demonstration, which then stops its nodes in order.
                start_new_session=True,
            )
        deadline = time.monotonic() + _READY_SECONDS
        while b'"event": "serving"' not in self.log.read_bytes()[begin:]:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name} does not serve after {_READY_SECONDS:g} s")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """The process id of the serving process."""
        if self._server is None:
            raise DemoError(f"{self.name} is not serving")
        return self._server.pid

    def kill(self) -> None:
        """End the serving process as a crash would: with no chance to do anything more."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def check(self) -> None:
        """Raise unless the serving process, if there should be one, is alive.

        Raises:
            DemoError: it has ended.
        """
        if self._server is not None and self._server.poll() is not None:
            raise DemoError(f"{self.name} stopped serving with code {self._server.returncode}")

    def stop(self) -> None:
        """End the serving process in order, or by force if it does not listen; and all commands."""
        for command in self._commands:
            if command.poll() is None:
                command.kill()
                command.communicate()
        if self._store is not None:
            self._store.close()
            self._store = None
        server, self._server = self._server, None
        if server is None or server.poll() is not None:
            return
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    def log_tail(self) -> list[str]:
        """Return the last lines that the serving process logged."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return lines[-_LOG_LINES:]

    # --- looking into the store ---------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The node's store, opened for reading by this process beside the node's own."""
        if self._store is None:
            path = self.folder / self.name / "store.db"
            try:
                self._store = Store.open_reader(path, SystemClock())
            except NodeError as error:
                raise DemoError(str(error)) from error
        return self._store

    def size(self, origin: str) -> int:
        """Return how many deltas of a list are here."""
        record = lists.load_list(self.store.connection, Origin.parse(origin))
        return 0 if record is None else record.log.size


def _environment() -> Mapping[str, str]:
    # Settings of another node, and terminals that are none, are not for the nodes here.
    return {key: value for key, value in os.environ.items() if not key.startswith("HASHFED_")}


class Coalition:
    """The three nodes."""

    def __init__(self, folder: Path, teller: Teller) -> None:
        self._teller = teller
        ports = _free_ports(3)
        self.hotline, self.platform, self.ngo = self.nodes = tuple(
            Node(org, folder, port, teller)
            for org, port in zip(
                ("hotline.example", "platform.example", "ngo.example"), ports, strict=True
            )
        )

    def show_all(self, commands: Sequence[tuple[Node, Sequence[str]]]) -> list[str]:
        """Run commands at the same time, and show each with what it printed, in order."""
        printed = self.run_all(commands)
        for (node, arguments), out in zip(commands, printed, strict=True):
            self._teller.command(node.line(*arguments))
            self._teller.output(out.splitlines())
        return printed

    def run_all(self, commands: Sequence[tuple[Node, Sequence[str]]]) -> list[str]:
        """Run commands at the same time; return what each printed on stdout, in order."""
        started = [(node, node.start(*arguments)) for node, arguments in commands]
        return [node.finish(process) for node, process in started]

    def await_all(self, probes: Mapping[Node, Callable[[], bool]]) -> dict[Node, float]:
        """Wait until something holds on several nodes.

        Returns:
            For each, the value of `time.perf_counter()` when it was first seen to hold.

        Raises:
            DemoError: a node stopped serving, or it does not hold in time.
        """
        seen: dict[Node, float] = {}
        deadline = time.perf_counter() + _WAIT_SECONDS
        while len(seen) < len(probes):
            for node, probe in probes.items():
                if node not in seen and probe():
                    seen[node] = time.perf_counter()
            if time.perf_counter() > deadline:
                late = ", ".join(node.name for node in probes if node not in seen)
                raise DemoError(f"nothing new at {late} for {_WAIT_SECONDS:g} s")
            for node in self.nodes:
                node.check()
            time.sleep(_POLL_SECONDS)
        return seen

    def stop(self) -> None:
        """End all that runs; subscribers first, so that nobody logs a lost peer."""
        with signals_held():
            for node in reversed(self.nodes):
                node.stop()


def _free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nothing listens on."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise DemoError("no free ports on 127.0.0.1")
