"""Makes each system call that touches a node's files fail once, in each of three ways.

A first run of each operation is traced. A case is one call in it, the n-th of its name in its
thread. The call fails with EIO, or fails with ENOSPC, or the process is killed at it; a call that
reads only fails with EIO. If several threads make an n-th call of that name, all of them fail. The
operation is then run again, as an operator would do, and must succeed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import Final

from federation.names import Origin
from federation.recovery import Mark
from node.store import lists, snapshots
from node.store.release import released_size
from tests.faults import older
from tests.faults.coalition import LIST
from tests.faults.invariants import KILLED, Ledger, require_documented
from tests.faults.later import LATER
from tests.faults.nodes import Node, ending, require_sound_file
from tests.faults.older import OlderNode
from tests.faults.part import Broken, Part, Share, judged
from tests.faults.report import Outcome
from tests.faults.small_buckets import PLANTED, small_buckets
from tests.faults.strace import Call, Traced, why_not
from tests.harness import forkserver
from tests.harness.forkserver import ForkServer
from tests.harness.node import assertion

_FAULTS: Final = {"EIO": "error=EIO", "ENOSPC": "error=ENOSPC", "KILL": "signal=KILL"}
_REVISED: Final = 300
_NEW: Final = 40
_MAY_NOT_SIGN: Final = 15
_NOTHING_NEW: Final = 2
_BACKED_UP: Final = 2
"""How many positions the old backup has."""

Command = Callable[[Path], Sequence[str | Path]]
"""Returns a command line for the folder of a case."""


@dataclass(frozen=True)
class Operation:
    """Something that a node does with its files.

    Attributes:
        name: its name.
        node: the node that does it, in its state right before.
        command: the command.
        done: requires that a node in a case's folder has done it.
        stdin: the command's input.
        again: what an operator runs after a failure; the same command by default.
        repeated: how that may end, apart from 0, if the first run has done everything.
        publishes: how `publish` must end on the node after that; None if nobody publishes.
        env: further variables of its environment.
        read: the files that it reads, as far as their names are known in advance.
    """

    name: str
    node: Node
    command: Command
    done: Callable[[Node, Path], None]
    stdin: str = ""
    again: Command | None = None
    repeated: int = 0
    publishes: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Point:
    """One way for an operation to fail."""

    operation: Operation
    call: Call
    fault: str

    def __str__(self) -> str:
        call = self.call
        return f"{self.operation.name}: {self.fault} at {call.name} {call.number} ({call.target})"


def run(share: Share, only: str = "") -> Generator[Outcome, None, None]:
    """Let calls fail, one for each case; if a text is given, only calls whose description has it.

    An example of a description is "publish: EIO at fsync 3 (mark/hotline.example)".
    """
    if reason := why_not():
        asked = share.cases if share.count is not None else share.cases[:1]
        yield from (Outcome(case, 0, skipped=reason) for case in asked)
        return
    planted = (PLANTED, older.PLANTED)
    traced = Traced(share.folder, (*planted, *share.planted))
    with (
        small_buckets(),
        forkserver.running(*planted) as forks,
        _prepared(share.folder, forks) as world,
    ):
        points = [point for point in _points(world, traced, share) if only in str(point)]
        for case in share.cases:
            if case >= len(points):
                return
            yield _try(share, case, points[case], traced, world)


# --- the nodes, as they stand before ----------------------------------------------------------


@dataclass(frozen=True)
class _World:
    """What there is before anything fails.

    Attributes:
        origin: the list.
        history: the header of each position that was signed.
        operations: the operations to try.
    """

    origin: str
    history: dict[int, str]
    operations: tuple[Operation, ...]


@contextmanager
def _prepared(folder: Path, forks: ForkServer) -> Iterator[_World]:
    """Make a publisher, a relay and a newcomer, and copy them right before each operation."""
    homes = folder / "before"
    homes.mkdir()
    owner, relay, newcomer = (
        Node(homes, f"{name}.example", forks) for name in ("hotline", "ngo", "platform")
    )
    owner.meet(relay)
    relay.meet(newcomer)
    newcomer("peer", "add", "--yes", "-", stdin=owner("invite").out)
    origin = owner.create(LIST)
    relay("follow", origin)
    newcomer("follow", origin, "--via", relay.org)
    with ending(owner, relay):
        for label in ("first", "second"):
            _publish(owner, range(_REVISED), label)
        owner.serve()
        relay("sync")
        behind = relay.copied(folder / "behind")
        backup = folder / "old.db"
        owner("backup", backup)
        _publish(owner, range(_REVISED), "third")
        owner("snapshot", LIST)
        _publish(owner, range(_REVISED, _REVISED + 5), "fourth")
        relay("sync")
        # Now it can serve the snapshot too.
        relay("snapshot", origin)
        # Files are copied while nobody writes.
        owner.stop()
        damaged = relay.copied(folder / "damaged")
        damaged.damage()
        alone = owner.copied(folder / "alone")
        alone("peer", "remove", relay.org)
        staged = alone.copied(folder / "staged")
        staged.stage(LIST, _changes())
        older_one = OlderNode.of(alone, folder / "older")
        restored = owner.copied(folder / "restored")
        restored("restore", backup)
        owner.serve()
        relay.serve()
        history, export = owner.headers(origin), owner.export(origin)
        nodes = _Nodes(alone, older_one, staged, restored, behind, newcomer, damaged)
        operations = _operations(_Checks(origin, len(history), export), backup, nodes)
        yield _World(origin, history, operations)


def _publish(owner: Node, numbers: range, label: str) -> None:
    owner.stage(LIST, (assertion(number, label) for number in numbers))
    owner("publish", LIST)


def _changes() -> list[str]:
    return [assertion(number, "new") for number in range(1_000, 1_000 + _NEW)]


@dataclass(frozen=True)
class _Checks:
    """Checks of what is there after an operation; each takes the node and the case's folder."""

    origin: str
    size: int
    export: str

    def staged(self, node: Node, _: Path) -> None:
        found = json.loads(_done(node, "staged", LIST, "--json"))["staged"]
        if found != {"assert": _NEW}:
            raise Broken(f"an import reported success, and {found} is staged")

    def published(self, node: Node, _: Path) -> None:
        live, wanted = node.live(self.origin), self.export.count("\n") + _NEW
        if live != wanted:
            raise Broken(f"{live} entries are in force after a publication, not {wanted}")

    def made(self, node: Node, _: Path) -> None:
        with node.reading() as store:
            record = lists.load_list(store.connection, Origin.parse(self.origin))
            held = record and snapshots.newest_held(store.connection, record.list)
            if not record or not held or held.position != record.log.size - 1:
                raise Broken("a snapshot that was made is not there")

    def backed_up(self, _: Node, folder: Path) -> None:
        found = [path for path in folder.glob("*.db") if not path.name.startswith(".")]
        for path in found:
            require_sound_file(path, "backup")
        if not found:
            raise Broken("a backup that was made is not there")

    def put_back(self, node: Node, _: Path) -> None:
        if node.size(self.origin) != _BACKED_UP:
            raise Broken(f"{node.size(self.origin)} positions are there after a restore")

    def migrated(self, node: Node, _: Path) -> None:
        if "nothing to migrate" not in _done(node, "migrate"):
            raise Broken("a migration reported success, but there is something to migrate")
        if node.size(self.origin) != self.size or node.export(self.origin) != self.export:
            raise Broken(f"{node.size(self.origin)} of {self.size} positions are there")

    def caught_up(self, node: Node, _: Path) -> None:
        if node.size(self.origin) != self.size or node.export(self.origin) != self.export:
            raise Broken(f"{node.size(self.origin)} of {self.size} positions are there")


@dataclass(frozen=True)
class _Nodes:
    """Nodes right before they do something.

    Attributes:
        alone: a publisher without peers.
        older_one: the same with a program of a later version.
        staged: the same with staged changes.
        restored: a publisher whose store was restored.
        behind: a subscriber.
        newcomer: a node that has nothing yet.
        damaged: a subscriber in whose store a bit has flipped.
    """

    alone: Node
    older_one: Node
    staged: Node
    restored: Node
    behind: Node
    newcomer: Node
    damaged: Node


def _operations(checks: _Checks, backup: Path, nodes: _Nodes) -> tuple[Operation, ...]:
    new = "".join(f"{line}\n" for line in _changes())
    return (
        Operation(
            "import",
            nodes.alone,
            lambda _: ("import", LIST, "-"),
            checks.staged,
            new,
            publishes=0,
        ),
        Operation(
            "publish", nodes.staged, lambda _: ("publish", LIST), checks.published, publishes=0
        ),
        Operation(
            "snapshot",
            nodes.alone,
            lambda _: ("snapshot", LIST),
            checks.made,
            repeated=_NOTHING_NEW,
            publishes=0,
        ),
        Operation(
            "backup",
            nodes.alone,
            lambda folder: ("backup", folder / "first.db"),
            checks.backed_up,
            # An existing backup is not written again.
            again=lambda folder: ("backup", folder / "second.db"),
        ),
        Operation(
            "restore",
            nodes.alone,
            lambda _: ("restore", backup),
            checks.put_back,
            publishes=_MAY_NOT_SIGN,
        ),
        Operation(
            "recover", nodes.restored, lambda _: ("recover", LIST), checks.caught_up, publishes=0
        ),
        Operation(
            "migrate",
            nodes.older_one,
            lambda _: ("migrate",),
            checks.migrated,
            publishes=0,
            env=LATER,
        ),
        Operation("merge", nodes.behind, lambda _: ("sync",), checks.caught_up),
        Operation("join", nodes.newcomer, lambda _: ("sync",), checks.caught_up),
        Operation("repair", nodes.damaged, lambda _: ("fsck", "--repair"), checks.caught_up),
    )


def _done(node: Node, *args: str | Path) -> str:
    result = node.run(*args)
    if result.code != 0:
        raise Broken(f"{args[0]} ended with {result.code}: {result.err[-1000:]}")
    return result.out


# --- the cases --------------------------------------------------------------------------------


def _points(world: _World, traced: Traced, share: Share) -> list[Point]:
    """Trace every operation once; return all ways to fail, in an order that the seed determines."""
    points = []
    for operation in world.operations:
        with share.scratch(-1) as folder:
            node = operation.node.copied(folder)
            # Run it once before, so that no module is compiled in the traced run.
            _run(traced, operation, operation.node.copied(folder / "warm"), folder / "warm")
            done = _run(traced, operation, node, folder)
            if done.returncode != 0:
                raise RuntimeError(f"{operation.name}, traced, ended: {done.stderr}")
            operation.done(node, folder)
            for call in traced.calls(folder):
                faults = ("EIO",) if call.reads else tuple(_FAULTS)
                points += [Point(operation, call, fault) for fault in faults]
                if call.reads:
                    operation.read.add(call.target)

    def draw(point: Point) -> bytes:
        text = f"{share.seed} {point.operation.name} {point.call.name} {point.call.number}"
        return hashlib.sha256(f"{text} {point.fault}".encode()).digest()

    return sorted(points, key=draw)


def _run(
    traced: Traced,
    operation: Operation,
    node: Node,
    folder: Path,
    point: Point | None = None,
) -> CompletedProcess[str]:
    args = ("--home", node.home, *operation.command(folder))
    fault, only = None, []
    if point is not None:
        call = point.call
        fault = (call.name, f"{_FAULTS[point.fault]}:when={call.number}")
        only = [folder / name for name in sorted(operation.read)] if call.reads else []
    return traced.run(args, env=operation.env, stdin=operation.stdin, fault=fault, only=only)


def _strike(
    traced: Traced, operation: Operation, node: Node, folder: Path, point: Point
) -> CompletedProcess[str] | None:
    """Run an operation in which a call fails; return None if a wake-up failed as well."""
    try:
        done = _run(traced, operation, node, folder, point)
    except TimeoutExpired:
        if not traced.has_struck_a_wake_up():
            raise
        return None
    return None if traced.has_struck_a_wake_up() else done


def _try(share: Share, case: int, point: Point, traced: Traced, world: _World) -> Outcome:
    hit: list[str] = []
    violations = judged(partial(_fail, share, case, point, traced, world, hit))
    name = point.operation.name
    kind = f"{name}: {point.fault}" if hit else f"not reached: {name}, {point.call.name}"
    return Outcome(case, len(hit), {kind: 1}, tuple(f"{point}: {what}" for what in violations))


def _fail(
    share: Share, case: int, point: Point, traced: Traced, world: _World, hit: list[str]
) -> None:
    """Let one call fail, then do what an operator would."""
    operation = point.operation
    with share.scratch(case) as folder:
        node = operation.node.copied(folder)
        ledger = Ledger(world.origin, history=dict(world.history))
        done = _strike(traced, operation, node, folder, point)
        code = KILLED
        if done is not None:
            if traced.hit():
                hit.append(traced.hit())
            killed = point.fault == "KILL" and bool(hit)
            if not killed or done.returncode not in {KILLED, 128 - KILLED}:
                code = done.returncode
            require_documented(code, done.stderr, of=operation.name, killed=killed)
        ledger.see(node.org, node.headers(world.origin))
        _require_released(node, world.origin)
        if code == 0:
            operation.done(node, folder)
        again = node.run(*(operation.again or operation.command)(folder), stdin=operation.stdin)
        if again.code not in {0, operation.repeated}:
            raise Broken(f"run again, it ended with {again.code}: {again.err[-1000:]}")
        operation.done(node, folder)
        ledger.see(node.org, node.headers(world.origin))
        if operation.publishes is not None:
            published = node.run("publish", LIST)
            if published.code != operation.publishes:
                raise Broken(f"publish ended with {published.code}: {published.err[-1000:]}")
        ledger.see(node.org, node.headers(world.origin))
        node.check()


def _require_released(node: Node, origin: str) -> None:
    """Require that nothing may leave a publisher that the mark does not cover."""
    if not node.has_store():
        return
    with node.reading() as store:
        record = lists.load_list(store.connection, Origin.parse(origin))
        if record is None or not record.own:
            return
        released = released_size(store.connection, record)
    mark = node.mark(origin)
    if not isinstance(mark, Mark):
        raise Broken(f"the mark cannot be used any more: {mark}")
    if released > mark.checkpoint.size:
        raise Broken(f"{released} positions may leave, but the mark covers {mark.checkpoint.size}")


PART = Part(
    name="syscalls",
    summary="makes each system call that touches a node's files fail once in three ways",
    count=None,
    run=run,
)
