"""Kills the making of a large snapshot, and a join with it, again and again.

Small lists are done before anything interesting happens. Here a kill falls among hundreds of
buckets, while index runs are merged, in a database of gigabytes. The result is compared byte by
byte with the result without a kill. After SIGKILL, what was written is still in the system's
memory, so this says nothing about power cuts.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from node.home import Home
from tests.faults.invariants import KILLED
from tests.faults.nodes import Node, Running, ending
from tests.faults.part import Broken, Part, Share, judged
from tests.faults.report import Outcome
from tests.harness import forkserver
from tests.harness.forkserver import ForkServer

ENTRIES: Final = 10_000_000
KILLS: Final = 8
"""How often the maker is killed, and how often the node that joins."""

_EAGER: Final = "tests.faults.with_eager_snapshots"
_LIST: Final = "main"
_HOURS: Final = 3 * 3600.0
_BLOCK: Final = 10_000


def run(share: Share, entries: int = ENTRIES) -> Generator[Outcome, None, None]:
    """Make lists of this many entries, one for each case: some 400 bytes of disk per entry."""
    with forkserver.running(_EAGER, *share.planted) as forks:
        for case in share.cases:
            killed: Counter[str] = Counter()
            violations = judged(partial(_live, share, case, forks, killed, entries))
            yield Outcome(case, sum(killed.values()), killed, violations)


def _live(share: Share, case: int, forks: ForkServer, killed: Counter[str], entries: int) -> None:
    with share.scratch(case) as folder:
        owner, calm, hurried = (
            Node(folder, f"{name}.example", forks) for name in ("owner", "calm", "hurried")
        )
        with ending(owner, calm, hurried):
            owner.meet(calm, hurried)
            origin = owner.create(_LIST)
            for follower in (calm, hurried):
                follower("follow", origin)
            _publish(owner, folder / "changes.csv", entries)
            choose = share.random(case)
            # The owner was copied and put back, so it asks all its peers.
            for follower in (calm, hurried):
                follower.serve()
            buckets = _make(owner, origin, choose, killed)
            for follower in (calm, hurried):
                follower.stop()
            owner.serve()
            _join(calm, hurried, origin, choose, killed, buckets)
            for one in (owner, calm):
                _require_equal(one, hurried, origin)
            hurried.check()


def _publish(owner: Node, changes: Path, entries: int) -> None:
    with changes.open("w") as file:
        file.write("type,digest,label\n")
        for start in range(0, entries, _BLOCK):
            file.writelines(
                f"sha256,{sha256(b'large %d' % number).hexdigest()},first\n"
                for number in range(start, min(start + _BLOCK, entries))
            )
    _finish(owner, "import", _LIST, changes)
    _finish(owner, "publish", _LIST)
    changes.unlink()


def _make(owner: Node, origin: str, choose: random.Random, killed: Counter[str]) -> int:
    """Make the snapshot without kills in a copy, with kills at the owner; return its buckets."""
    kept = owner.home.with_name("before-snapshot")
    shutil.copytree(owner.home, kept)
    began = time.monotonic()
    _finish(owner, "snapshot", _LIST)
    took = time.monotonic() - began
    calm = _bucket_digest(owner)
    # Nobody has seen that snapshot: the owner is as before, and the one made with kills counts.
    shutil.rmtree(owner.home)
    kept.rename(owner.home)
    for _ in range(KILLS):
        result = owner.begin("snapshot", _LIST).kill_after(choose.uniform(0.05, 0.6) * took)
        killed["snapshot"] += result.code == KILLED
        if owner.status(origin)["snapshot_position"] is not None:
            break
    else:
        _finish(owner, "snapshot", _LIST)
    if _bucket_digest(owner) != calm:
        raise Broken("the buckets of a snapshot whose maker was killed are other bytes")
    return _buckets(owner)


def _join(
    calm: Node,
    hurried: Node,
    origin: str,
    choose: random.Random,
    killed: Counter[str],
    buckets: int,
) -> None:
    """Join without kills, and with kills at bucket after bucket."""
    _finish(calm, "sync")
    if calm.status(origin)["snapshot_position"] is None:
        raise Broken("the first sync did not go by the snapshot")
    held = 0
    for wanted in sorted(choose.sample(range(1, buckets + 1), min(KILLS, buckets))):
        running = hurried.begin("sync")
        while _buckets(hurried) < wanted and _is_alive(running):
            time.sleep(0.005)
        result = running.kill_after(choose.uniform(0, 0.02))
        killed["sync"] += result.code == KILLED
        now = _buckets(hurried)
        if now < held:
            raise Broken(f"{held} buckets had arrived, {now} are here after a kill")
        held = now
        if hurried.status(origin)["position"]:
            break
    _finish(hurried, "sync")


def _require_equal(one: Node, other: Node, origin: str) -> None:
    """Require that two nodes hold the same buckets and the same entries, byte by byte.

    Raises:
        Broken: they do not.
    """
    if _bucket_digest(one) != _bucket_digest(other):
        raise Broken(f"{other.org} holds other buckets than {one.org}")
    if _export_digest(one, origin) != _export_digest(other, origin):
        raise Broken(f"{other.org} exports other bytes than {one.org}")


def _finish(node: Node, *args: str | Path) -> None:
    result = node.begin("--quiet", *args).end(timeout=_HOURS)
    if result.code:
        raise Broken(f"{node.org} {' '.join(map(str, args))}: {result}")


def _is_alive(running: Running) -> bool:
    return Path(f"/proc/{running.process.pid}").exists()


def _buckets(node: Node) -> int:
    with closing(_open(node)) as store:
        return int(store.execute("SELECT count(*) FROM bucket").fetchone()[0])


def _bucket_digest(node: Node) -> str:
    digest = sha256()
    with closing(_open(node)) as store:
        for (data,) in store.execute("SELECT bytes FROM bucket ORDER BY id"):
            digest.update(data)
    return digest.hexdigest()


def _export_digest(node: Node, origin: str) -> str:
    file = node.home.with_name("export.jsonl")
    _finish(node, "export", origin, "--output", file)
    with file.open("rb") as source:
        digest = sha256()
        while block := source.read(1 << 20):
            digest.update(block)
    file.unlink()
    return digest.hexdigest()


def _open(node: Node) -> sqlite3.Connection:
    return sqlite3.connect(f"{Home(node.home).store.as_uri()}?mode=ro", uri=True, timeout=60)


PART: Final = Part(
    "large",
    f"kills the making of a snapshot of {ENTRIES:,} entries, and a join with it, among its buckets",
    1,
    run,
)
