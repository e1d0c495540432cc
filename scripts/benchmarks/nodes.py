"""A publisher and a subscriber: two nodes in two folders, driven as their operators would."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import SHUT_WR, create_connection, create_server, socket
from typing import Any, Final

from processes import BenchError, Server, Usage, free_port, run, serving

ORGS: Final = ("hotline.example", "platform.example")
LIST: Final = "known"
ORIGIN: Final = f"{ORGS[0]}/{LIST}"

_HASHFED: Final = Path(sys.executable).with_name("hashfed")
_FORWARD_BYTES: Final = 64 * 1024


def work(folder: Path, module: str, task: str, **arguments: object) -> Any:  # noqa: ANN401  # JSON
    """Run a task of a module in a process of its own and return its result."""
    given = folder / f"{task}.json"
    given.write_text(json.dumps(arguments))
    program = Path(__file__).with_name(f"{module}.py")
    try:
        return json.loads(run([sys.executable, program, task], stdin=given).output)
    finally:
        given.unlink()


def start_time(command: str) -> float:
    """Return the seconds in which a command starts, with all it imports, and does nothing."""
    return run([_HASHFED, command, "--help"]).wall_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One of the two nodes.

    Attributes:
        home: its folder.
        port: where it listens.
    """

    home: Path
    port: int

    @property
    def store(self) -> Path:
        """Its database."""
        return self.home / "store.db"

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """Return a command line of this node."""
        return [_HASHFED, "--home", self.home, "--quiet", *arguments]

    def run(
        self, *arguments: str | Path, stdin: Path | None = None, discard_output: bool = False
    ) -> Usage:
        """Run a command of this node in a process of its own."""
        return run(self.command(*arguments), stdin=stdin, discard_output=discard_output)

    def serving(self) -> AbstractContextManager[Server]:
        """Serve for the time of a block."""
        log = self.home.with_name(f"{self.home.name}.log")
        return serving(self.command("serve"), self.port, log)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two nodes that are each other's peers; the second follows the first one's list."""

    publisher: Party
    subscriber: Party

    @classmethod
    def create(cls, folder: Path, *, through: int | None = None) -> Pair:
        """Make both nodes and the empty list.

        Args:
            folder: where; it is made.
            through: the port at which the subscriber calls the publisher, if not its own.
        """
        folder.mkdir()
        parties = [Party(home=folder / name, port=free_port()) for name in ("a", "b")]
        runs: list[dict[str, object]] = []
        invitations = [folder / f"{party.home.name}.invite" for party in parties]
        for party, org, invitation, called in zip(
            parties, ORGS, invitations, (through, None), strict=True
        ):
            arguments = ["init", "--org", org, "--listen", f"127.0.0.1:{party.port}"]
            if called is not None:
                arguments += ["--advertise", f"127.0.0.1:{called}"]
            runs += [
                {"home": str(party.home), "arguments": arguments},
                {"home": str(party.home), "arguments": ["invite"], "output": str(invitation)},
            ]
        a, b = (str(party.home) for party in parties)
        runs += [
            {"home": a, "arguments": ["peer", "add", str(invitations[1]), "--yes"]},
            {"home": b, "arguments": ["peer", "add", str(invitations[0]), "--yes"]},
            {"home": a, "arguments": ["list", "create", LIST, "--audience", "all-peers"]},
            {"home": b, "arguments": ["follow", ORIGIN]},
        ]
        work(folder, "in_node", "commands", runs=runs)
        return cls(publisher=parties[0], subscriber=parties[1])

    def check_complete(self, count: int) -> None:
        """Refuse a figure of a sync that has not brought the whole list.

        Raises:
            BenchError: the subscriber has another number of live entries.
        """
        rows = map(json.loads, self.subscriber.run("list", "--json").output.splitlines())
        live = [row["live"] for row in rows if row["list"] == ORIGIN]
        if live != [count]:
            raise BenchError(f"the subscriber has {live} live entries, expected {count}")


class Counter:
    """Forwards one port of the loopback interface to another and counts the bytes both ways.

    What it counts is the content of the TCP streams: TLS records with all that is in them, without
    the headers of TCP and IP, which depend on the network.
    """

    def __init__(self, listener: socket) -> None:
        self.port = int(listener.getsockname()[1])
        self.to: int | None = None
        self.bytes = 0
        self._listener = listener
        self._lock = threading.Lock()

    def take(self) -> int:
        """Return the bytes since the last call."""
        with self._lock:
            taken, self.bytes = self.bytes, 0
            return taken

    def accept(self) -> None:
        """Forward connections until the listener is closed."""
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            try:
                called = create_connection(("127.0.0.1", self.to or 0))
            except OSError:
                caller.close()
                continue
            for source, target in ((caller, called), (called, caller)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket, target: socket) -> None:
        with suppress(OSError):
            while data := source.recv(_FORWARD_BYTES):
                with self._lock:
                    self.bytes += len(data)
                target.sendall(data)
            target.shutdown(SHUT_WR)


@contextmanager
def counting() -> Iterator[Counter]:
    """Count the bytes of connections for the time of the block."""
    with create_server(("127.0.0.1", 0)) as listener:
        counter = Counter(listener)
        threading.Thread(target=counter.accept, daemon=True).start()
        yield counter
