"""A list of our own in a real store, with real keys, and what a command would do with it."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from federation.body import Body, pack, unpack
from federation.entry import EntryId, Operation
from federation.names import Origin
from federation.trust.orgroot import Role
from node.formats.jsonl import Format, format_change
from node.publish.high_water import HighWater
from node.publish.permit import Permit, obtain_permit
from node.publish.sign import Publication, Publishing, PublishingKeys
from node.staging.file import Batch, Staging
from node.staging.import_file import ImportReport, import_changes
from node.staging.rows import key_of
from node.store import history, lists, orgs
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.release import load_incarnation
from tests.federation.worlds import T0, pin_root, role_key

ORIGIN = Origin.parse("hotline.example/main")


KEYS = PublishingKeys(
    publisher=role_key(ORIGIN.org, Role.PUBLISHER), log=role_key(ORIGIN.org, Role.LOG)
)


class TickingClock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self._now_ms = T0

    def now_ms(self) -> int:
        self._now_ms += 1000
        return self._now_ms


class OwnList:
    """One list of our own.

    Attributes:
        store: the store it lies in.
        staging: its staged changes.
        clock: the store's clock.
        mark: its high-water mark.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.clock = TickingClock()
        self.store = Store.create(folder / "store.db", self.clock)
        self.staging = Staging.open(folder / "main.staged")
        self.mark = HighWater(folder / "mark", ORIGIN.org)
        self.mark.create()
        self.mark.begin(ORIGIN, load_incarnation(self.store.connection))
        with self.store.write("list", str(ORIGIN)) as transaction:
            orgs.store_node(transaction, "org", ORIGIN.org)
            orgs.pin_org(transaction, pin_root(ORIGIN.org))
            lists.add_list(transaction, ORIGIN, via=None)

    def close(self) -> None:
        self.staging.close()
        self.store.close()

    @property
    def record(self) -> ListRecord:
        found = lists.load_list(self.store.connection, ORIGIN)
        assert found is not None
        return found

    def import_text(
        self,
        text: str | bytes,
        *,
        file_format: Format | None = None,
        dry_run: bool = False,
    ) -> ImportReport:
        data = text if isinstance(text, bytes) else text.encode()
        return import_changes(
            self.store,
            self.record,
            self.staging,
            io.BytesIO(data),
            file_format=file_format,
            dry_run=dry_run,
        )

    def import_operations(self, *operations: Operation) -> ImportReport:
        return self.import_text(to_lines(operations))

    def permit(self) -> Permit:
        """Return the permit to sign; there are no peers to ask."""
        return obtain_permit(self.store, self.mark, ORIGIN, tuple, clock=self.clock)

    def publish(self, permit: Permit | None = None) -> Publication:
        permit = self.permit() if permit is None else permit
        with Publishing(self.store, self.staging, ORIGIN, KEYS) as publishing:
            return publishing.sign(permit, clock=self.clock)

    def live(self) -> dict[EntryId, Operation]:
        record = self.record
        return {
            operation.entry: operation
            for _, _, operation in history.iter_live(
                self.store.connection, record.list, record.log.size
            )
        }


def to_lines(operations: Iterable[Operation]) -> str:
    """Return operations as JSON Lines."""
    return "".join(f"{format_change(operation)}\n" for operation in operations)


def read_staged(staging: Staging) -> list[Operation]:
    """Return every staged operation, by ascending key."""
    batches = staging.iter_batches(1_000, 10**6)
    return [operation for batch in batches for operation in read_batch(batch)]


def read_batch(batch: Batch) -> list[Operation]:
    """Return the operations of a batch, by ascending key."""
    if isinstance(batch.operations, Body):
        read = [operation for _, operation in batch.operations.operations()]
        return sorted(read, key=lambda operation: key_of(pack(operation)))
    return list(map(unpack, batch.operations))
