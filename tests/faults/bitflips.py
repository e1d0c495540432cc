"""Single bits that flip in the database file of a node, anywhere in it.

Each flip is classified by its effect on the rows of the tables, whatever `fsck` says about it. If
it hits signed data, or data derived from it, `fsck` must report it, no wrong answer may be given
from then on, and a repair from a peer must succeed.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Final

from node.store.sqlite import sqlite3
from tests.faults.calling import call, call_apart
from tests.faults.nodes import Node
from tests.faults.part import Broken, Part, Share, judged
from tests.faults.report import Outcome
from tests.harness import forkserver
from tests.harness.forkserver import ForkServer
from tests.harness.node import assertion, digest

_PAGE: Final = 4096
_DAMAGED: Final = 12
_SMALL_BUCKETS: Final = "tests.faults.small_buckets"
_SCHEMA: Final = "what tables there are"

_NOT_SIGNED: Final[Mapping[str, frozenset[str]]] = {
    "delta": frozenset({"version", "received_ms", "via"}),
    "fetched": frozenset({"received_ms", "via"}),
    "follow_state": frozenset({"state", "reason", "detail", "since_ms", "contact_ms", "head"}),
    "list": frozenset({"via", "deltas_only", "since_snapshot"}),
    "node": frozenset({"value"}),
    "org": frozenset({"pinned_ms"}),
    "peer": frozenset({"address", "added_ms"}),
    "released": frozenset({"size"}),
    "run": frozenset({"version"}),
    "signed_extent": frozenset({"staging", "first", "last", "edit"}),
    "version": frozenset({"committed_ms", "kind", "detail"}),
    "_sqlite_migrations": frozenset({"applied_at"}),
}
"""Columns that no signature covers: when, from where and in which version things came here, where
peers are called, how following goes."""

_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table'"
_Digests = dict[str, tuple[bytes, bytes]]
"""By table: digests of its rows, and of the part of them that is signed or derived from that."""


class _Target:
    """A node whose file is damaged, and its answers while it is undamaged.

    Attributes:
        name: what it is.
        pages: how many pages its database has.
    """

    def __init__(self, name: str, home: Path, hashes: list[str]) -> None:
        self.name = name
        self._home = home
        self._content = (home / "store.db").read_bytes()
        self.pages = len(self._content) // _PAGE
        self._hashes = hashes
        self._rows = _read_rows(home / "store.db")
        self._answers = call(home, "lookup", *hashes).out
        self._held = _hold(home)
        self._origins = [json.loads(line)["list"] for line in call(home, "list").out.splitlines()]

    def flip(self, scratch: Path, page: int, bit: int) -> str:
        """Flip a bit, and repair the node; return what the bit belonged to and the result.

        Raises:
            Broken: a promise did not hold.
        """
        home = scratch / "node"
        shutil.copytree(self._home, home)
        content = bytearray(self._content)
        content[page * _PAGE + bit // 8] ^= 1 << bit % 8
        (home / "store.db").write_bytes(content)
        kind, must_be_found = self._classify(home / "store.db")
        # SQLite may have written to it.
        (home / "store.db").write_bytes(content)
        self._ask(home)
        (home / "store.db").write_bytes(content)
        checked = call(home, "fsck")
        if checked.code not in {0, _DAMAGED}:
            raise Broken(f"fsck ends with {checked.code}: {checked.err}")
        if not checked.code:
            if must_be_found:
                raise Broken(f"fsck does not find a flip of {kind}")
            self._require_right(home)
            return f"{kind}: not damage"
        looked_up = call(home, "lookup", *self._hashes)
        if looked_up.code != _DAMAGED and looked_up.out != self._answers:
            raise Broken(f"a flip of {kind} is found, and lookup answers wrongly all the same")
        repaired = call_apart(home, "fsck", "--repair")
        if repaired.code == _DAMAGED and kind == _SCHEMA:
            # Nobody can say what is in such a file, so a backup is needed.
            restored = call(home, "restore", self._home / "store.db")
            if restored.code:
                raise Broken(f"a backup does not help either: {restored.err}")
            return f"{kind}: found, and restored from a backup"
        again = call(home, "fsck")
        if again.code:
            raise Broken(f"{kind} is not repaired: {repaired.out}{repaired.err}{again.out}")
        self._require_right(home)
        return f"{kind}: found and repaired"

    def _ask(self, home: Path) -> None:
        """Run commands that read damaged data before the damage is known.

        Raises:
            Broken: one ends in a way that is not allowed.
        """
        for name in ("status", "list", "peer", "doctor"):
            call(home, name)
        call(home, "lookup", *self._hashes)
        for origin in self._origins:
            for words in (("export",), ("log",), ("diff", "position:0..position:1")):
                call(home, words[0], origin, *words[1:])
            call(home, "show", origin, self._hashes[0])

    def _classify(self, path: Path) -> tuple[str, bool]:
        """Return which part of the file was damaged, and whether that must be found."""
        try:
            rows = _read_rows(path)
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return "list data that cannot be read any more", True
        if rows.keys() != self._rows.keys():
            return _SCHEMA, True
        for table in sorted(rows.keys() | self._rows.keys()):
            found, whole = rows.get(table), self._rows.get(table)
            if found is None or whole is None or found[1] != whole[1]:
                return f"list data ({table})", True
        if rows != self._rows:
            return "facts that nobody signs", False
        return "no row of a table", False

    def _require_right(self, home: Path) -> None:
        """Require that a node has the same content and gives the same answers as before.

        Raises:
            Broken: it does not.
        """
        if call(home, "lookup", *self._hashes).out != self._answers:
            raise Broken("lookup gives other answers than before")
        if _hold(home) != self._held:
            raise Broken("lists are not what they were")


def _hold(home: Path) -> list[str]:
    """Return everything that a node has of all lists, in the form that it sends to others."""
    held = []
    for line in call(home, "list").out.splitlines():
        origin = json.loads(line)["list"]
        held += [origin, call(home, "export", origin).out]
        log = map(json.loads, call(home, "log", origin).out.splitlines())
        held += [f"{leaf['position']} {leaf['delta']}" for leaf in log]
    return held


def _read_rows(path: Path) -> _Digests:
    """Read every table; no table if the list of tables cannot be read.

    Raises:
        sqlite3.DatabaseError, UnicodeDecodeError: a table cannot be read.
    """
    digests = {}
    connection = sqlite3.connect(path, isolation_level=None)
    # A flipped bit may leave bytes that are not text.
    connection.text_factory = bytes
    try:
        try:
            names = connection.execute(_TABLES).fetchall()
        except sqlite3.DatabaseError:
            return {}
        for table in ["sqlite_master", *(name.decode() for (name,) in names)]:
            whole, signed = sha256(), sha256()
            rows = connection.execute(f'SELECT * FROM "{table}"')  # noqa: S608
            left_out = _NOT_SIGNED.get(table, frozenset())
            kept = [at for at, column in enumerate(rows.description) if column[0] not in left_out]
            for row in rows:
                whole.update(repr(row).encode())
                signed.update(repr([row[at] for at in kept]).encode())
            digests[table] = whole.digest(), signed.digest()
    finally:
        connection.close()
    return digests


def _try_cases(share: Share) -> Generator[Outcome, None, None]:
    for module in share.planted:
        import_module(module)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory("-bitflips")))
        forks = stack.enter_context(forkserver.running(_SMALL_BUCKETS))
        targets = _prepare(folder, forks, stack)
        for case in share.cases:
            choices = share.random(case)
            target = targets[case % len(targets)]
            # Every page comes equally often, in an order that depends on the seed.
            rounds, at = divmod(case // len(targets), target.pages)
            order = random.Random(f"{share.seed} {rounds}")  # repeatable
            page = order.sample(range(target.pages), target.pages)[at]
            bit = choices.randrange(8 * _PAGE)
            hit: Counter[str] = Counter()

            def attempt() -> None:
                with share.scratch(case) as scratch:  # noqa: B023  # called at once
                    hit[f"{target.name}, {target.flip(scratch, page, bit)}"] += 1  # noqa: B023

            where = f"{target.name}, page {page + 1}, bit {bit}"
            broken = tuple(f"{where}: {what}" for what in judged(attempt))
            yield Outcome(case, hit=hit, violations=broken)


def _prepare(folder: Path, forks: ForkServer, stack: ExitStack) -> list[_Target]:
    """Make a publisher and a subscriber that hold the same two lists, and serve each other."""
    owner, reader = (Node(folder, f"{name}.example", forks) for name in ("hotline", "ngo"))
    stack.callback(owner.kill)
    stack.callback(reader.kill)
    owner.meet(reader)
    first, second = owner.create("main"), owner.create("joined")
    owner.publish("main", *range(80))
    owner.stage("main", [assertion(number, "B") for number in range(0, 120, 7)])
    owner.stage("main", [_withdrawal("retract", 3), _withdrawal("purge", 5)])
    owner("publish", "main")
    owner.publish("joined", *range(60, 260))
    owner("snapshot", "joined")
    owner.publish("joined", *range(260, 270))
    owner.serve()
    reader("follow", first, "--all-deltas")
    reader("follow", second)
    reader("sync")
    owner("snapshot", "main")
    owner.publish("main", *range(300, 310))
    reader("sync")
    reader.serve()
    hashes = [digest(number) for number in range(320)]
    targets = []
    for node in (reader, owner):
        home = folder / "whole" / node.org
        # A backup is the database as one file.
        shutil.copytree(node.home, home, ignore=shutil.ignore_patterns("store.db*", "*.sock"))
        node("backup", home / "store.db")
        name = "the publisher" if node is owner else "a subscriber"
        targets.append(_Target(name, home, [f"sha256:{one}" for one in hashes]))
    return targets


def _withdrawal(kind: str, number: int) -> str:
    cause = ',"cause":"withdrawn"' if kind == "retract" else ""
    return f'{{"op":"{kind}","id":"sha256:{digest(number)}"{cause}}}'


PART: Final = Part(
    name="bitflips",
    summary="flips single bits of a database file; fsck names them, a peer repairs them",
    count=1_000,
    run=_try_cases,
)
