"""Replaces the store by a verified backup, and keeps the old store under another name.

The backup is copied, never moved, and checked before anything is touched. The copy gets a token of
its own, so that nothing is signed for our lists until they have caught up (`node.publish.permit`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.follow import FollowState
from federation.names import OrgName
from federation.recovery import Obstacle
from node.clock import Clock
from node.errors import CommandError, DamageError, StoreError
from node.fsck import check
from node.fsck import journal as fsck_journal
from node.home import Home
from node.maintenance import migrate
from node.store import damage as store_damage
from node.store import follow_state, lists, orgs
from node.store.connection import Store
from node.store.copies import name_copy, put_aside
from node.store.damage import DamageKind
from node.store.release import rotate_incarnation
from node.store.sqlite import make_single_file, sqlite_errors
from node.system import durable

_COPY_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What replaced the store.

    Attributes:
        path: the store.
        version: the version of the store that it holds.
        positions: the size of each list's log in it, by origin.
        own: our lists, which have to catch up before anything is signed for them.
        aside: the old store, under its new name; None if there was none.
    """

    path: Path
    version: int
    positions: dict[str, int]
    own: tuple[str, ...]
    aside: Path | None


def restore(
    home: Home,
    org: OrgName,
    backup: Path,
    *,
    clock: Clock,
    on_progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> Restored:
    """Replace the store by a backup. The caller holds both locks of the node.

    Args:
        home: the node's folder.
        org: whose node it is.
        backup: a file that `hashfed backup` made.
        clock: for opening the copy.
        on_progress: told (what, done, of how much).

    Raises:
        CommandError: there is no such file, or it is the store itself.
        DamageError: it is not a backup, or not what was signed. Nothing was changed.
        StoreError: it is of another organization, from a newer version, or cannot be written.
    """
    store = home.store.resolve()
    if not backup.is_file():
        raise CommandError(
            f"{backup} does not exist", hint="name a file that 'hashfed backup' made"
        )
    if backup.resolve() == store:
        raise CommandError(f"{backup} is the store of this node", hint="name a backup of it")
    if Path(f"{backup}-wal").exists():
        raise CommandError(
            f"{backup} is in use, or was copied from one in use: {backup}-wal lies beside it",
            hint="name a file that 'hashfed backup' made: only that one is complete by itself",
        )
    with name_copy(store, "restoring") as copy:
        with durable.disk_errors(copy):
            _copy(backup, copy, on_progress)
        try:
            restored = _prepare(copy, org, store, clock, on_progress)
        except DamageError as error:
            # Name the backup: the operator does not know the copy.
            text = str(error).replace(str(copy), str(backup))
            raise DamageError(
                text, hint="nothing was changed; name another file that 'hashfed backup' made"
            ) from error
        with durable.disk_errors(store):
            durable.sync(copy)
            aside = put_aside(store, clock.now_ms())
            durable.rename(copy, store)
            # Findings about the old store do not hold for this one.
            store_damage.path_of(store).unlink(missing_ok=True)
            for journal in (home.fsck_journal, home.scrub_journal):
                fsck_journal.forget(journal)
    return Restored(
        path=home.store,
        version=restored.version,
        positions=restored.positions,
        own=restored.own,
        aside=aside,
    )


def _copy(backup: Path, copy: Path, on_progress: Callable[[str, int, int], None]) -> None:
    total = backup.stat().st_size
    durable.write_new(copy, b"")
    with backup.open("rb") as source, copy.open("wb") as target:
        while data := source.read(_COPY_BYTES):
            target.write(data)
            on_progress("copying", target.tell(), total)


def _prepare(
    copy: Path,
    org: OrgName,
    store: Path,
    clock: Clock,
    on_progress: Callable[[str, int, int], None],
) -> Restored:
    """Check the copy, and make it a store that does not sign anything yet."""
    migrate.upgrade(copy, clock)
    with _opened(copy, clock) as opened:
        try:
            theirs = orgs.own_root(opened).document.org
        except CommandError as error:
            raise DamageError(f"{copy.name}: the backup does not say whose it is") from error
        if theirs != org:
            raise StoreError(
                f"the backup belongs to {theirs}, and this node to {org}",
                hint="nothing was changed; name the right file, or the right --home",
                reason="FOREIGN",
            )
        for damage in check.fsck(opened, on_progress=on_progress):
            if damage.kind is DamageKind.CLAIM:
                continue
            raise DamageError(
                f"the backup is damaged: {damage.message}",
                hint="nothing was changed; try an older backup",
            )
        records = list(lists.iter_lists(opened.connection))
        own = [record for record in records if record.own]
        with opened.write("restore", f"version {opened.version}") as transaction:
            rotate_incarnation(transaction)
            for record in own:
                follow_state.store_follow_state(
                    transaction.connection,
                    record.list,
                    FollowState.RECOVERING,
                    now_ms=transaction.now_ms,
                    reason=Obstacle.RESTORED,
                    detail="the store was restored from a backup",
                )
        # A single self-contained file, so that it can be renamed.
        make_single_file(opened.connection)
        return Restored(
            path=store,
            version=opened.version - 1,
            positions={str(record.origin): record.log.size for record in records},
            own=tuple(str(record.origin) for record in own),
            aside=None,
        )


@contextmanager
def _opened(path: Path, clock: Clock) -> Iterator[Store]:
    store = Store.open(path, clock)
    try:
        with sqlite_errors(path):
            yield store
    finally:
        store.close()
