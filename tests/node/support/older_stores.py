"""A store that lacks a step of the schema, and the same after it was migrated."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType

from node.errors import StoreError
from node.fsck.check import fsck
from node.home import Home
from node.maintenance.migrate import Migrated, migrate
from node.store import lists
from node.store.connection import Store
from node.store.schema import MIGRATIONS, Schema
from tests.federation.worlds import Publisher, assertion
from tests.node.support.followed_lists import FollowedLists
from tests.node.support.own_list import TickingClock

STEP = "0002_note"
NEWER: Schema = {
    **MIGRATIONS,
    STEP: ("ALTER TABLE list ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",),
}
"""The schema of a later version."""

KEPT = f"store.db.before-{STEP}"


def make_older(folder: Path) -> Home:
    """Make a store of this version, which is an older one for who knows `NEWER`."""
    publisher = Publisher()
    publisher.publish(*(assertion(number) for number in range(500)))
    publisher.publish(assertion("another"))
    followed = FollowedLists(folder, publisher)
    followed.close()
    return Home(folder)


def read_content(path: Path, schema: Schema) -> tuple[object, ...]:
    """Return all that a store says, which must be sound."""
    store = Store.open_reader(path, TickingClock(), schema=schema)
    try:
        assert list(fsck(store)) == []
        return (
            store.version,
            [record.log for record in lists.iter_lists(store.connection)],
            *(
                store.connection.execute(query).fetchall()
                for query in (
                    "SELECT * FROM delta ORDER BY id",
                    "SELECT * FROM body ORDER BY id",
                    "SELECT * FROM posting",
                    "SELECT * FROM node ORDER BY key",
                    "SELECT * FROM version ORDER BY version",
                )
            ),
        )
    finally:
        store.close()


# --- killed -----------------------------------------------------------------------------------

_TRACED = {
    "node.maintenance.migrate",
    "node.maintenance.backup",
    "node.system.durable",
    "node.store.connection",
}


def _kill_at(number: int) -> None:
    """End this process at that call or return of what migrating is made of."""
    seen = 0

    def count(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal seen
        module = frame.f_globals.get("__name__", "")
        # Comparisons within a function are no points of their own.
        named = not frame.f_code.co_name.startswith(
            ("<genexpr", "<listcomp", "<setcomp", "_differ")
        )
        if event in {"call", "return"} and module in _TRACED and named:
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.setprofile(count)


def _migrate_killed(home: Home, number: int) -> bool:
    """Migrate in a process that is killed at a point; say whether it came that far."""
    child = os.fork()
    if not child:
        try:
            _kill_at(number)
            migrate(home, clock=TickingClock(), schema=NEWER)
            sys.setprofile(None)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


def _schema_of(path: Path) -> Schema:
    try:
        Store.open_reader(path, TickingClock(), schema=NEWER).close()
    except StoreError as error:
        assert error.reason == "OLDER"  # noqa: PT017  # no test
        return MIGRATIONS
    return NEWER


def main() -> None:
    """Kill migrations at every so manieth point; print at how many, and with what left."""
    folder, first, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    template = make_older(folder / "template")
    content = read_content(template.store, MIGRATIONS)
    left: dict[str, int] = {}
    number = first
    while True:
        home = Home(folder / "node")
        shutil.copytree(template.path, home.path)
        killed = _migrate_killed(home, number)
        schema = _schema_of(home.store)
        assert read_content(home.store, schema) == content, number
        names = sorted(
            "copy" if ".migrating" in name.name else name.name.partition("store.db")[2]
            for name in home.path.iterdir()
            if name.suffix not in {".migrating-wal", ".migrating-shm", ".migrating-journal"}
        )
        what = f"{'old' if schema is MIGRATIONS else 'new'} {names}"
        left[what] = left.get(what, 0) + 1
        done = migrate(home, clock=TickingClock(), schema=NEWER)
        assert isinstance(done, Migrated) is (schema is MIGRATIONS), number
        here = {path.name for path in home.path.iterdir()}
        assert here == {"store.db", KEPT}, (number, what, here)
        assert read_content(home.store, NEWER) == content, number
        assert read_content(home.path / KEPT, MIGRATIONS) == content, number
        shutil.rmtree(home.path)
        if not killed:
            break
        number += step
    print((number - first) // step, left)


if __name__ == "__main__":
    main()
