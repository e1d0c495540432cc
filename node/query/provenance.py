"""Where an entry comes from: the signed leaf that says it, and how it came here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from federation.entry import EntryId, Operation, OpKind
from federation.errors import FederationError, FingerprintError
from federation.fingerprint import Fingerprint, candidates
from federation.hashtypes import find_type
from federation.header import leaf_hash
from federation.names import OrgName, Origin
from node.errors import CommandError
from node.store import damage, fetched, history, index, lists, log, spans
from node.store.connection import Store
from node.store.contents import Contents
from node.store.index import Place
from node.store.lists import ListRecord
from node.store.sqlite import sqlite3


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLeaf:
    """What a publisher signed as one leaf of its log.

    Attributes:
        signed_ms: when.
        key_id: SHA-256 of the key that signed it.
        root_version: the version of the org root that names the key.
        leaf_hash: its hash in the log's tree.
        checkpoint: the signed note of the log right after it.
    """

    signed_ms: int
    key_id: bytes
    root_version: int
    leaf_hash: bytes
    checkpoint: bytes

    @classmethod
    def read(cls, record: bytes, checkpoint: bytes) -> SignedLeaf:
        """Read a leaf from its signed bytes, which were verified when they came.

        Raises:
            DamageError: they cannot be read any more.
        """
        header = log.read_header(record)
        return cls(
            signed_ms=header.time_ms,
            key_id=header.key_id,
            root_version=header.root_version,
            leaf_hash=leaf_hash(record),
            checkpoint=checkpoint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How one operation came to be here.

    Attributes:
        origin: the list.
        position: the delta's position in the list's log.
        row: the operation's row in the delta.
        operation: what it says.
        delta: what was signed of the delta; None when the delta is not here.
        snapshot: what was signed of the snapshot that the operation came with; None when it came
            with its delta.
        snapshot_position: that snapshot's position.
        received_ms: when this node accepted it (or signed it).
        via: the peer that it came from; None for our own.
        version: the store version that it came with.
        until: the position at which another operation replaced it; None while in force.
    """

    origin: Origin
    position: int
    row: int
    operation: Operation
    delta: SignedLeaf | None
    snapshot: SignedLeaf | None
    snapshot_position: int | None
    received_ms: int
    via: OrgName | None
    version: int
    until: int | None


class EntryReader:
    """Loads operations and where they came from."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._origins: dict[int, Origin] = {}
        self.contents = Contents(connection)

    def origin(self, span: int) -> Origin:
        """Return the name of the list that a span belongs to."""
        origin = self._origins.get(span)
        if origin is None:
            number = self.contents.source(span).list
            origin = self._origins[span] = lists.load_origin(self._connection, number)
        return origin

    def operation(self, place: Place) -> Operation:
        """Return the operation at a place."""
        return self.contents.operation(place)

    def provenance(self, place: Place, until: int | None) -> Provenance:
        """Return the operation at a place with everything known about how it came here."""
        source = self.contents.source(place.span)
        at = place.position
        delta = snapshot = None
        if place.bucket is not None:
            fetched_delta = fetched.load(self._connection, source.list, place.position)
            if fetched_delta is not None:
                delta = SignedLeaf.read(fetched_delta.delta.header, fetched_delta.delta.checkpoint)
            at = self._snapshot_position(place.span)
        record = log.load_record(self._connection, source.list, at)
        if record is None:
            raise CommandError(f"position {at} is not here")
        came_with = SignedLeaf.read(record.header, record.checkpoint)
        if place.bucket is None:
            delta = came_with
        else:
            snapshot = came_with
        return Provenance(
            origin=self.origin(place.span),
            position=place.position,
            row=place.row,
            operation=self.operation(place),
            delta=delta,
            snapshot=snapshot,
            snapshot_position=None if place.bucket is None else at,
            received_ms=record.received_ms,
            via=record.via,
            version=record.version,
            until=until,
        )

    def _snapshot_position(self, span: int) -> int:
        return spans.load(self._connection, span).first


def describe_operation(operation: Operation) -> dict[str, object]:
    """Return an operation as the JSON object that commands print for it."""
    kind, annotation = operation.kind, operation.annotation
    described: dict[str, object] = {"op": kind.word, "id": operation.entry.format()}
    if kind is OpKind.ASSERT:
        digests: dict[str, list[str]] = {}
        for fingerprint in operation.fingerprints:
            digests.setdefault(fingerprint.type, []).append(fingerprint.format_digest())
        described["fingerprints"] = {
            name: some[0] if len(some) == 1 else some for name, some in digests.items()
        }
        described["labels"] = list(annotation.labels)
        described["vocabulary"] = annotation.vocabulary
    if kind is OpKind.RETRACT:
        described["cause"] = annotation.cause.word
    described["reason"] = annotation.reason
    return described


def read_foreign(text: str) -> Fingerprint | None:
    """Parse a fingerprint of an unregistered type from the text that shows it, or return None."""
    type_name, _, _ = text.partition(":")
    try:
        return None if find_type(type_name) else Fingerprint.parse_tagged(text, allow_unknown=True)
    except FingerprintError:
        return None


def show(store: Store, record: ListRecord, text: str) -> list[list[Provenance]]:
    """Return the versions of each entry of a list that an id or a hash names, oldest first.

    Raises:
        CommandError: the list never had such an entry.
        DamageError: the list is damaged here.
        FingerprintError: the text starts like a hash but is not one.
    """
    damage.require_sound(store.path, str(record.origin))
    with store.snapshot() as connection:
        reader = EntryReader(connection)
        named = _entries_named(connection, reader, record, text)
        if not named:
            raise CommandError(f"{record.origin} has never had an entry {text!r}")
        return [
            [
                reader.provenance(version.place, version.until)
                for version in history.load_versions(connection, record.list, entry)
            ]
            for entry in named
        ]


def missing_deltas(
    entries: Iterable[Iterable[Provenance]],
) -> dict[int, list[tuple[int, Operation]]]:
    """Return the positions of deltas that are not here, with the rows and operations in question.

    Args:
        entries: what `show` returned.
    """
    missing: dict[int, list[tuple[int, Operation]]] = {}
    for versions in entries:
        for version in versions:
            if version.delta is None:
                missing.setdefault(version.position, []).append((version.row, version.operation))
    return missing


def _entries_named(
    connection: sqlite3.Connection, reader: EntryReader, record: ListRecord, text: str
) -> list[EntryId]:
    """Return the entries that an id names, or else those that ever had a fingerprint."""
    entry = EntryId.parse(text)
    named = {entry} if history.load_versions(connection, record.list, entry) else set()
    foreign = read_foreign(text)
    try:
        fingerprints = candidates(text) if foreign is None else (foreign,)
    except FederationError:
        fingerprints = ()
    for fingerprint in fingerprints:
        for span in spans.iter_applied(connection, record.list):
            for place in index.find_entries(connection, span.span, fingerprint):
                operation = reader.operation(place)
                if fingerprint in operation.fingerprints:
                    named.add(operation.entry)
    return sorted(named)
