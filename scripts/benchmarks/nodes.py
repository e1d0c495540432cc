"""A publisher and its followers: nodes in folders, run as their operators would run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from scripts.benchmarks.processes import BenchError, Running, Usage, run
from scripts.benchmarks.workers import Conversation
from tests.harness.node import PROGRAM, Node, unused_port
from tests.harness.signals import signals_held

PUBLISHER: Final = "hotline.example"
LIST: Final = "known"
ORIGIN: Final = f"{PUBLISHER}/{LIST}"


def start_time(command: str) -> float:
    """Return the seconds that a command takes to start, with all its imports, and do nothing."""
    return run([PROGRAM, command, "--help"]).wall_s


class Party(Node):
    """A node with the settings of production, whose commands are measured."""

    settings: Mapping[str, str] = MappingProxyType({})

    def __init__(self, folder: Path, org: str, *, port: int | None = None) -> None:
        """Name a node; `hashfed init` has not been run yet.

        Args:
            folder: where its folder and its log are made.
            org: its organization; the first label is the name of its folder.
            port: where it serves; None for one that nobody has.
        """
        super().__init__(folder, org, port=unused_port() if port is None else port, init=False)

    @property
    def store(self) -> Path:
        """Its database."""
        return self.home / "store.db"

    def run(
        self, *arguments: str | Path, stdin: Path | None = None, discard_output: bool = False
    ) -> Usage:
        """Run a command of this node in a new process."""
        command = [PROGRAM, "--home", self.home, "--quiet", *arguments]
        return run(command, stdin=stdin, discard_output=discard_output)

    @contextmanager
    def serving(self) -> Iterator[Running]:
        """Serve while a block runs.

        Raises:
            BenchError: the server does not start, or ends before the end of the block.
        """
        try:
            try:
                server = self.serve()
            except AssertionError as error:
                raise BenchError(f"{self.org} does not serve: {error}") from error
            yield Running(server.pid)
            if server.poll() is not None:
                raise BenchError(f"{self.org} ended early:\n{self.log()}")
        finally:
            with signals_held():
                self.stop()


@dataclass(slots=True)
class Coalition:
    """A publisher, its lists, and the nodes that follow it.

    Attributes:
        folder: where all their files are; it is created.
        commands: runs commands that are not measured.
        publisher: the publisher.
    """

    folder: Path
    commands: Conversation
    publisher: Party = field(init=False)
    _invitations: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.publisher = Party(self.folder, PUBLISHER)
        self._do(self.publisher, *_init(self.publisher))
        self._do(self.publisher, *_create_list(LIST))

    def join(self, name: str, *, through: int | None = None) -> Party:
        """Make a node that follows the list.

        Args:
            name: its folder, and the first label of its organization's name.
            through: the port at which it calls the publisher, if not the publisher's own.
        """
        party = self._enroll(Party(self.folder, f"{name}.example"))
        self._do(party, "peer", "add", str(self.write_invitation(through)), "--yes")
        self._do(party, "follow", ORIGIN)
        return party

    def write_invitation(self, through: int | None = None) -> Path:
        """Write the publisher's invitation, with its own port or another one."""
        called = self.publisher.port if through is None else through
        return self._invite(self.publisher, {"HASHFED_NODE_ADVERTISE": f"127.0.0.1:{called}"})

    def enroll(self, count: int) -> list[Path]:
        """Make organizations that are peers of the publisher and have no running node.

        Returns:
            The folders of their keys.
        """
        parties = (
            Party(self.folder, f"member-{number}.example", port=1) for number in range(count)
        )
        return [self._enroll(party).home for party in parties]

    def add_list(self, name: str, follower: Party) -> None:
        """Make another list, which one of the nodes follows."""
        self._do(self.publisher, *_create_list(name))
        self._do(follower, "follow", f"{PUBLISHER}/{name}")

    def publish(self, files: Sequence[Path], name: str = LIST) -> float:
        """Import and publish changes one after the other; return the seconds that they all took."""
        seconds: float = self.commands.ask(
            "publish", home=str(self.publisher.home), name=name, files=list(map(str, files))
        )
        return seconds

    def sync(self, subscriber: Party) -> None:
        """Let a subscriber fetch what there is, without measuring it."""
        with self.publisher.serving():
            subscriber.run("sync")

    def check_complete(self, party: Party, count: int, name: str = LIST) -> None:
        """Check that a sync has brought the whole list.

        Raises:
            BenchError: the node has another number of live entries.
        """
        origin = f"{PUBLISHER}/{name}"
        live = self.commands.ask("live_entries", home=str(party.home), origin=origin)
        if live != count:
            raise BenchError(f"{party.org} has {live} live entries, expected {count}")

    def database_bytes(self, party: Party) -> int:
        """Return the size of a node's database in bytes."""
        return int(self.commands.ask("database_bytes", path=str(party.store)))

    def _enroll(self, party: Party) -> Party:
        self._do(party, *_init(party))
        self._do(self.publisher, "peer", "add", str(self._invite(party, {})), "--yes")
        return party

    def _invite(self, party: Party, environment: Mapping[str, str]) -> Path:
        self._invitations += 1
        file = self.folder / f"{self._invitations}.invite"
        self._do(party, "invite", output=file, environment=environment)
        return file

    def _do(
        self,
        party: Party,
        *arguments: str,
        output: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.commands.ask(
            "run",
            home=str(party.home),
            arguments=arguments,
            output=None if output is None else str(output),
            environment=dict(environment),
        )


def _init(party: Party) -> tuple[str, ...]:
    return "init", "--org", party.org, "--listen", f"127.0.0.1:{party.port}"


def _create_list(name: str) -> tuple[str, ...]:
    return "list", "create", name, "--audience", "all-peers"
