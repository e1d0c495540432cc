"""Full disks: every command, with every amount of room up to what it needs.

The room is that of a small file system, or a limit on the size of a file. A command without enough
room says so and ends. The store is as it was, or one whole step further. Once there is room, the
same command gives the same result as if there had been room from the start.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from federation.errors import FederationError
from node.errors import NodeError
from node.home import Home
from node.store.sqlite import sqlite3
from tests.faults.calling import Ended, call, call_apart
from tests.faults.holdings import read_holdings
from tests.faults.nodes import Node
from tests.faults.part import Broken, Part, Share
from tests.faults.report import Outcome
from tests.faults.smalldisk import have_own_mounts, small_disk
from tests.harness import forkserver
from tests.harness.forkserver import ForkServer
from tests.harness.node import assertion

_LIST: Final = "main"
_OLD: Final = range(300)
_NEW: Final = range(1_000, 9_000)
_GOLDEN: Final = 0.6180339887
"""Its multiples, modulo 1, spread evenly over the unit interval, however many there are."""

_ENDS: Final = frozenset({(12, "STORE_FULL"), (12, "STORE"), (74, "IO_ERROR")})
"""How a command without room ends. To SQLite, a file that may not grow is a failing disk."""

_BROKEN: Final = (Broken, NodeError, FederationError, sqlite3.Error)


@dataclass(frozen=True)
class _Command:
    """A command for which there may be no room.

    Attributes:
        args: the command line; `BACKUP` stands for a file on the disk.
        folder: what is on the disk before the command.
        room: more than it needs, in bytes.
        largest: more than the largest file that it writes, in bytes.
    """

    args: tuple[str, ...]
    folder: Path
    room: int
    largest: int

    @property
    def name(self) -> str:
        """The command without its arguments."""
        return self.args[0]


def _try_cases(share: Share) -> Generator[Outcome, None, None]:
    for module in share.planted:
        import_module(module)
    why = have_own_mounts()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory("-diskfull")))
        forks = stack.enter_context(forkserver.running())
        commands = _prepare(folder, forks, stack)
        makes = {command.name: _made(command, folder / "made") for command in commands}
        for case in share.cases:
            part = case * _GOLDEN % 1
            for command in commands:
                for limited in (False, True):
                    if why and not limited:
                        yield Outcome(case, skipped=why)
                        continue
                    yield _try(share, case, command, part, makes[command.name], limited=limited)


def _prepare(folder: Path, forks: ForkServer, stack: ExitStack) -> list[_Command]:
    """Make the nodes on which the commands are run."""

    def copy(node: Node, name: str) -> Path:
        shutil.copytree(node.home, folder / name / "node")
        (folder / name / "out").mkdir()
        return folder / name

    owner, reader = Node(folder, "hotline.example", forks), Node(folder, "ngo.example", forks)
    stack.callback(owner.kill)
    origin = owner.create(_LIST)
    owner.publish(_LIST, *_OLD)
    changes = folder / "changes.jsonl"
    changes.write_text("".join(f"{assertion(number)}\n" for number in _NEW))
    unstaged = copy(owner, "unstaged")
    owner("import", _LIST, changes)
    staged = copy(owner, "staged")
    owner("publish", _LIST)
    published = copy(owner, "published")
    # Only now does it get peers: everything above is published without asking anybody.
    owner.meet(reader)
    reader("follow", origin)
    owner.serve()
    owner.publish(_LIST, *range(10_000, 10_100))
    behind = copy(reader, "behind")
    return [
        _Command(("import", _LIST, str(changes)), unstaged, 1_200_000, 700_000),
        _Command(("publish", _LIST), staged, 1_150_000, 1_000_000),
        _Command(("snapshot", _LIST), published, 550_000, 480_000),
        _Command(("backup", "BACKUP"), published, 1_300_000, 1_200_000),
        _Command(("sync",), behind, 2_000_000, 1_100_000),
    ]


def _words(command: _Command, disk: Path) -> list[str]:
    backup = str(disk / "out" / "backup.db")
    return [backup if word == "BACKUP" else word for word in command.args]


def _made(command: _Command, disk: Path) -> object:
    """Return the result of a command that has all the room that it needs."""
    shutil.copytree(command.folder, disk)
    call_apart(disk / "node", *_words(command, disk))
    made = _state(disk)
    shutil.rmtree(disk)
    return made


def _state(disk: Path) -> object:
    """Return what is there, in bytes that do not depend on when it was made."""
    node = disk / "node"
    state: list[object] = []
    for line in call(node, "list").out.splitlines():
        found = json.loads(line)
        log = [json.loads(leaf) for leaf in call(node, "log", found["list"]).out.splitlines()]
        state.append([found["list"], call(node, "export", found["list"]).out])
        state.append([(leaf["position"], leaf["kind"], leaf["ops"]) for leaf in log])
        if found["own"]:
            state.append(call(node, "staged", found["list"].partition("/")[2]).json()["staged"])
    for backup in (disk / "out").iterdir():
        shutil.copytree(node, disk / "restored", ignore=shutil.ignore_patterns("store.db*"))
        restored = call(disk / "restored", "restore", backup).json()
        state.append([backup.name, restored["positions"]])
        shutil.rmtree(disk / "restored")
    return state


def _try(
    share: Share, case: int, command: _Command, part: float, makes: object, *, limited: bool
) -> Outcome:
    """Run a command that may lack room, then run it again with all the room that it needs."""
    size = int(part * (command.largest if limited else command.room))
    where = f"no file over {size} bytes" if limited else f"room for {size} bytes"
    found = "done"
    violations: tuple[str, ...] = ()
    try:
        with share.scratch(case) as scratch, ExitStack() as stack:
            path, disk = scratch / "disk", None
            if limited:
                shutil.copytree(command.folder, path)
            else:
                disk = stack.enter_context(small_disk(path, command.folder))
            before = _released_and_staged(path)
            if disk is not None:
                disk.leave(size)
            words = _words(command, path)
            ended = call_apart(path / "node", *words, largest_file=size if limited else None)
            if disk is not None:
                disk.leave_much()
            if ended.code:
                found = _require_refusal(ended)
                _require_kept(before, path)
            _require_sound(path)
            again = call_apart(path / "node", *words)
            # A command that succeeded the first time cannot always be repeated.
            if again.code and ended.code:
                raise Broken(f"with room it ends with {again.code}: {again.err}")
            _require_sound(path)
            if _state(path) != makes:
                raise Broken("with room it makes something else than it made at once")
    except _BROKEN as error:
        violations = (f"{command.name}, {where}: {type(error).__name__}: {error}",)
    kind = "limit" if limited else "disk"
    return Outcome(case, hit={f"{command.name}, small {kind}: {found}": 1}, violations=violations)


def _require_refusal(ended: Ended) -> str:
    """Require that a command said that it had no room; return how."""
    error = ended.error()
    how = (ended.code, error["reason"])
    if how not in _ENDS or not error["message"] or not error["hint"]:
        raise Broken(f"it ended with {ended.code}: {ended.err}")
    return f"{ended.code} {error['reason']}"


def _released_and_staged(disk: Path) -> tuple[frozenset[tuple[str, int, str]], list[str]]:
    """Return the released positions, and how many changes of each kind are staged."""
    node = disk / "node"
    own = [
        line["list"].partition("/")[2]
        for line in map(json.loads, call(node, "list").out.splitlines())
        if line["own"]
    ]
    released = read_holdings(Home(node), disk / "out").released
    return released, [call(node, "staged", name).out for name in own]


def _require_kept(before: tuple[frozenset[tuple[str, int, str]], list[str]], disk: Path) -> None:
    """Require that a failed command has left nothing half done and nothing behind."""
    after = _released_and_staged(disk)
    if not before[0] <= after[0]:
        raise Broken("a position that was released is not there any more")
    if after[0] == before[0] and after[1] != before[1]:
        raise Broken(f"staged was {before[1]}, is {after[1]}")
    backups = [path.name for path in (disk / "out").iterdir()]
    if backups:
        raise Broken(f"there is a backup: {backups}")
    left = [path.name for path in disk.rglob(".*")]
    if left:
        raise Broken(f"it left {', '.join(left)} behind")


def _require_sound(disk: Path) -> None:
    checked = call(disk / "node", "fsck")
    if checked.code:
        raise Broken(f"fsck ends with {checked.code}: {checked.out}{checked.err}")


PART: Final = Part(
    name="diskfull",
    summary="runs every command at each size of a disk and of a file, up to what it needs",
    count=200,
    run=_try_cases,
)
