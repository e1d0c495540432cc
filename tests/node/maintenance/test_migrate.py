"""What `maintenance.migrate` promises: a migrated, checked store, or the store as it was."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from node.cli.context import Context
from node.cli.maintenance_cmd import migrate as migrate_command
from node.errors import DamageError, LockedError, StoreError, StoreFullError
from node.home import Home
from node.maintenance import migrate as maintenance_migrate
from node.maintenance.migrate import Migrated, migrate
from node.store.connection import Store
from node.store.schema import MIGRATIONS, Schema
from node.store.sqlite import sqlite3
from node.system import locks
from tests.node.support.older_stores import KEPT, NEWER, STEP, make_older, read_content
from tests.node.support.own_list import TickingClock

CLOCK = TickingClock()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_older(tmp_path / "node")


def names(home: Home) -> set[str]:
    return {path.name for path in home.path.iterdir()}


def refused(home: Home, schema: Schema, error: type[StoreError], match: str) -> StoreError:
    """Migrate, which is refused and leaves all as it was; return the error."""
    before, content = home.store.read_bytes(), read_content(home.store, MIGRATIONS)
    with pytest.raises(error, match=match) as caught:
        migrate(home, clock=CLOCK, schema=schema)
    assert names(home) == {"store.db"}
    assert read_content(home.store, MIGRATIONS) == content
    assert home.store.read_bytes() == before
    return caught.value


def test_an_older_store_is_used_by_nobody_and_named_with_what_to_do(home: Home) -> None:
    for open_store in (Store.open, Store.open_reader):
        with pytest.raises(StoreError, match="older hashfed") as caught:
            open_store(home.store, CLOCK, schema=NEWER)
        assert (caught.value.reason, caught.value.exit_code) == ("OLDER", 12)
        assert "'hashfed migrate'" in caught.value.hint
    assert names(home) == {"store.db"}


def test_a_migrated_copy_takes_the_place_of_the_store_which_is_kept(home: Home) -> None:
    content = read_content(home.store, MIGRATIONS)
    assert migrate(home, clock=CLOCK, schema=NEWER) == Migrated(
        path=home.store.resolve(), steps=(STEP,), kept=home.store.resolve().with_name(KEPT)
    )
    assert names(home) == {"store.db", KEPT}
    assert home.store.stat().st_mode & 0o777 == 0o600
    assert read_content(home.store, NEWER) == content
    assert read_content(home.path / KEPT, MIGRATIONS) == content
    store = Store.open(home.store, CLOCK, schema=NEWER)
    assert store.connection.execute("SELECT DISTINCT note FROM list").fetchall() == [("none",)]
    store.close()
    # An older program refuses it from now on; and there is nothing more to do.
    with pytest.raises(StoreError, match="newer hashfed") as caught:
        migrate(home, clock=CLOCK)
    assert caught.value.reason == "NEWER"
    assert migrate(home, clock=CLOCK, schema=NEWER) is None
    assert names(home) == {"store.db", KEPT}


def test_what_a_log_beside_the_store_has_is_migrated_too(home: Home) -> None:
    # As a killed process leaves it.
    writer = Store.open(home.store, CLOCK)
    with writer.write("test", "the last"):
        pass
    for end in ("", "-wal"):
        data = Path(f"{home.store}{end}").read_bytes()
        (home.path / f"copied{end}").write_bytes(data)
    writer.close()
    for end in ("", "-wal"):
        (home.path / f"copied{end}").replace(f"{home.store}{end}")
    assert migrate(home, clock=CLOCK, schema=NEWER)
    assert names(home) == {"store.db", KEPT}
    for path, schema in ((home.store, NEWER), (home.path / KEPT, MIGRATIONS)):
        store = Store.open_reader(path, CLOCK, schema=schema)
        row = store.connection.execute(
            "SELECT detail FROM version ORDER BY version DESC"
        ).fetchone()
        store.close()
        assert row == ("the last",)


def test_a_second_migration_keeps_the_store_under_a_name_of_its_own(home: Home) -> None:
    before = home.store.read_bytes()
    assert migrate(home, clock=CLOCK, schema=NEWER)
    # Gone back by hand, and migrated again.
    home.store.write_bytes(before)
    done = migrate(home, clock=CLOCK, schema=NEWER)
    assert done is not None
    assert done.kept.name == f"{KEPT}-2"
    assert names(home) == {"store.db", KEPT, f"{KEPT}-2"}


LOSSES = {
    "index rows": ("DELETE FROM posting WHERE position = 1", "index"),
    "a body": ("DELETE FROM body WHERE id = (SELECT max(id) FROM body)", "missing"),
    "a bit": ("UPDATE body SET bytes = zeroblob(length(bytes))", "BODY_DIGEST_MISMATCH"),
    "a checkpoint": ("UPDATE delta SET checkpoint = x'00'", "CHECKPOINT_MALFORMED"),
    "a list with all of it": (
        (
            "DELETE FROM follow_state; DELETE FROM span; DELETE FROM delta; DELETE FROM body; "
            "DELETE FROM posting; DELETE FROM superseded; UPDATE run SET rows = 0; "
            "DELETE FROM list"
        ),
        "the lists",
    ),
    "a position": ("UPDATE list SET size = 1", "the lists"),
    "a version": ("DELETE FROM version WHERE version = 1", "the versions"),
    "a root": ("UPDATE org SET root = x'00' WHERE name = 'relay.example'", "the organizations"),
    "the token": ("UPDATE node SET value = '00' WHERE key = 'incarnation'", "whose store it is"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_migration_that_would_lose_anything_is_found_out_and_leaves_the_store(
    home: Home, loss: str
) -> None:
    statements, match = LOSSES[loss]
    schema = {**NEWER, STEP: (*NEWER[STEP], *statements.split("; "))}
    error = refused(home, schema, DamageError, match)
    assert "the store is unchanged" in error.hint


def test_a_step_that_fails_leaves_the_store(home: Home) -> None:
    refused(home, {**NEWER, "0003_wrong": ("SELECT * FROM gone",)}, StoreError, "no such table")


def test_a_store_from_a_newer_version_is_left_as_it_is(home: Home) -> None:
    connection = sqlite3.connect(home.store, isolation_level=None)
    connection.execute("UPDATE _sqlite_migrations SET name = '9999_future'")
    connection.close()
    before = home.store.read_bytes()
    with pytest.raises(StoreError, match="newer hashfed"):
        migrate(home, clock=CLOCK, schema=NEWER)
    assert home.store.read_bytes() == before
    assert names(home) == {"store.db"}


def test_a_store_that_is_open_elsewhere_is_not_replaced(home: Home) -> None:
    other = Store.open(home.store, CLOCK)
    with pytest.raises(LockedError, match="open in another process"):
        migrate(home, clock=CLOCK, schema=NEWER)
    other.close()
    assert names(home) == {"store.db"}
    assert migrate(home, clock=CLOCK, schema=NEWER)


def test_nobody_writes_what_would_be_lost_meanwhile(home: Home) -> None:
    tried = []

    def write(_what: str, _done: int, _total: int) -> None:
        connection = sqlite3.connect(home.store, isolation_level=None, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("DELETE FROM version")
        connection.close()
        tried.append(True)

    assert migrate(home, clock=CLOCK, schema=NEWER, on_progress=write)
    assert len(tried) > 2


def test_the_command_says_what_it_did_and_waits_for_no_server(home: Home) -> None:
    config = '[node]\norg = "platform.example"\nlisten = "127.0.0.1:7443"\n'
    home.config.write_text(config)
    context = Context(home_option=str(home.path), as_json=False, quiet=True, environ={})
    with locks.hold(home.lock_file("serve"), "hashfed serve"), pytest.raises(LockedError):
        migrate_command.main([], obj=context, standalone_mode=False)
    migrate_command.main([], obj=context, standalone_mode=False)


_LIMITED = """
import resource, sys
from pathlib import Path
from node.errors import StoreError
from node.home import Home
from node.maintenance.migrate import migrate
from tests.node.support.older_stores import NEWER
from tests.node.support.own_list import TickingClock
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    migrate(Home(Path(sys.argv[1])), clock=TickingClock(), schema=NEWER)
except StoreError as error:
    print(error.reason)
"""


@pytest.mark.fault
@pytest.mark.parametrize("percent", [0, 10, 50, 99])
def test_a_copy_that_cannot_be_written_leaves_the_store(home: Home, percent: int) -> None:
    before = home.store.read_bytes()
    limit = len(before) * percent // 100
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(home.path), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert names(home) == {"store.db"}
    assert home.store.read_bytes() == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != limit


def test_a_full_disk_is_named_with_what_is_needed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise StoreFullError("no room left")

    monkeypatch.setattr(maintenance_migrate, "_check", full)
    error = refused(home, NEWER, StoreFullError, "the store is unchanged")
    assert "MiB" in error.hint


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(4))
def test_a_migration_that_is_killed_anywhere_leaves_a_whole_store_and_is_done_by_the_next(
    tmp_path: Path, first: int
) -> None:
    # In a process of its own: it forks, and this one may have threads.
    done = subprocess.run(
        [sys.executable, "-m", "tests.node.support.older_stores", str(tmp_path), str(first), "4"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    killed, _, left = done.stdout.partition(" ")
    assert int(killed) > 12
    # Before and after the copy was made, between its two names, and after it.
    for what in ("old ['']", "old ['', 'copy']", f"old ['', '.before-{STEP}', 'copy']"):
        assert what in left, left
    assert f"new ['', '.before-{STEP}']" in left, left
