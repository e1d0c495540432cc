"""Answers for any hash, entry, list and time: who asserted this, when, and how it came here.

Reads only; every answer comes from the signed bytes that are kept, found through the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from federation.entry import EntryId, Operation, OpKind
from federation.errors import FederationError, FingerprintError
from federation.fingerprint import Fingerprint, candidates
from federation.hashtypes import find_type
from federation.header import Header, leaf_hash
from federation.names import OrgName, Origin
from node import guarding
from node.clock import Clock
from node.errors import UsageError
from node.highwater import HighWater
from node.store import entries, history, log, registry
from node.store.connection import Store
from node.store.entries import Place
from node.store.history import Change
from node.store.registry import FollowStatus, ListRecord
from node.store.sqlite import sqlite3

_LOOKUP_BATCH: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How one operation came to be here.

    Attributes:
        origin: the list.
        position: the delta's position in the list's log.
        row: the operation's row in the delta.
        operation: what it says.
        signed_ms: when the publisher signed it.
        key_id: SHA-256 of the key that signed it.
        root_version: version of the org root that the key stood in.
        delta_hash: leaf hash of the delta, in the log's tree.
        checkpoint: the signed note of the log right after the delta.
        received_ms: when this node accepted it (or signed it).
        via: the peer that it came from; None for our own.
        version: the store version that it came in with.
        until: the position at which another operation took its place; None while in force.
    """

    origin: Origin
    position: int
    row: int
    operation: Operation
    signed_ms: int
    key_id: bytes
    root_version: int
    delta_hash: bytes
    checkpoint: bytes
    received_ms: int
    via: OrgName | None
    version: int
    until: int | None


class _Reader:
    """Loads operations and where they came from."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lists: dict[int, ListRecord] = {}
        self._bodies = log.Bodies(connection)

    def origin(self, number: int) -> Origin:
        """Return the name of a list."""
        if number not in self._lists:
            self._lists[number] = registry.load_list_by_number(self._connection, number)
        return self._lists[number].origin

    def operation(self, place: Place) -> Operation:
        """Return the operation at a place."""
        return self._bodies.load(place.list, place.position).operation(place.row)

    def provenance(self, place: Place, until: int | None) -> Provenance:
        """Return the operation at a place with all that is known of its way here."""
        record = log.load_record(self._connection, place.list, place.position)
        if record is None:
            raise UsageError(f"position {place.position} is not here")
        header = Header.parse(record.header)
        return Provenance(
            origin=self.origin(place.list),
            position=place.position,
            row=place.row,
            operation=self.operation(place),
            signed_ms=header.time_ms,
            key_id=header.key_id,
            root_version=header.root_version,
            delta_hash=leaf_hash(record.header),
            checkpoint=record.checkpoint,
            received_ms=record.received_ms,
            via=record.via,
            version=record.version,
            until=until,
        )


def describe_operation(operation: Operation) -> dict[str, object]:
    """Return an operation as the JSON object that commands print for it."""
    fingerprints: dict[str, list[str]] = {}
    for fingerprint in operation.fingerprints:
        fingerprints.setdefault(fingerprint.type, []).append(fingerprint.format_digest())
    annotation = operation.annotation
    described: dict[str, object] = {
        "op": operation.kind.name.lower(),
        "id": operation.entry.format(),
    }
    if operation.kind is OpKind.ASSERT:
        described["fingerprints"] = {
            name: digests[0] if len(digests) == 1 else digests
            for name, digests in fingerprints.items()
        }
        described["labels"] = list(annotation.labels)
        described["vocabulary"] = annotation.vocabulary
    if operation.kind is OpKind.RETRACT:
        described["cause"] = annotation.cause.word
    described["reason"] = annotation.reason
    return described


# --- looking up -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An assertion in force that has a fingerprint.

    Attributes:
        origin: the list that it is in.
        fingerprint: the fingerprint that was asked for.
        operation: the assertion.
        position: its position in the list's log.
    """

    origin: Origin
    fingerprint: Fingerprint
    operation: Operation
    position: int


def lookup(store: Store, text: str) -> list[Match]:
    """Return the assertions in force, in all lists, that have a hash.

    Args:
        store: where to look.
        text: a hash as `<type>:<digest>`, or a digest alone, which is looked up as each type that
            it could be.

    Raises:
        FingerprintError: it is no hash.
    """
    with store.snapshot() as connection:
        reader = _Reader(connection)
        found = [
            match
            for fingerprint in _read_hash(connection, text)
            for place in entries.find_fingerprint(connection, fingerprint)
            for match in _confirm(reader, fingerprint, place)
        ]
    return sorted(found, key=_by_list)


def lookup_many(
    store: Store, texts: Iterable[str]
) -> Iterator[tuple[str, list[Match] | FederationError]]:
    """Yield (text, matches or what is wrong with the text) for each text, in order.

    Takes many at a time, so that each body is read once for all of its matches in a batch.
    """
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _LOOKUP_BATCH:
            yield from _lookup_batch(store, batch)
            batch = []
    yield from _lookup_batch(store, batch)


def _lookup_batch(
    store: Store, texts: list[str]
) -> Iterator[tuple[str, list[Match] | FederationError]]:
    wanted: list[tuple[Fingerprint, ...] | FederationError] = []
    by_shape: dict[tuple[str, int], dict[bytes, Fingerprint]] = {}
    matches: dict[Fingerprint, list[Match]] = {}
    with store.snapshot() as connection:
        for text in texts:
            try:
                fingerprints = _read_hash(connection, text)
            except FederationError as error:
                wanted.append(error)
                continue
            wanted.append(fingerprints)
            for fingerprint in fingerprints:
                shape = (fingerprint.type, len(fingerprint.digest))
                by_shape.setdefault(shape, {})[fingerprint.digest] = fingerprint
        reader = _Reader(connection)
        places = [
            (place, fingerprints_of[digest])
            for (type_name, _), fingerprints_of in by_shape.items()
            for digest, place in entries.find_many(connection, type_name, fingerprints_of)
        ]
        # By place, so that each body is read once.
        places.sort(key=itemgetter(0))
        for place, fingerprint in places:
            matches.setdefault(fingerprint, []).extend(_confirm(reader, fingerprint, Place(*place)))
    for text, found in zip(texts, wanted, strict=True):
        if isinstance(found, FederationError):
            yield text, found
        else:
            yield text, sorted([m for f in found for m in matches.get(f, ())], key=_by_list)


def _by_list(match: Match) -> tuple[Origin, int]:
    # The same on every node, however it numbers its lists.
    return match.origin, match.position


def _read_hash(connection: sqlite3.Connection, text: str) -> tuple[Fingerprint, ...]:
    """Return the fingerprints that a text can be, also one of a type that only a list here has."""
    try:
        return candidates(text)
    except FingerprintError as error:
        fingerprint = _read_foreign(text)
        # Rather mistyped than of a type that nobody here has heard of.
        if fingerprint is None or not entries.find_fingerprint(connection, fingerprint):
            raise error from None
        return (fingerprint,)


def _read_foreign(text: str) -> Fingerprint | None:
    """Return the fingerprint of a type that is not registered, from how it is shown, or None."""
    type_name, _, _ = text.partition(":")
    try:
        return None if find_type(type_name) else Fingerprint.parse_tagged(text, allow_unknown=True)
    except FingerprintError:
        return None


def _confirm(reader: _Reader, fingerprint: Fingerprint, place: Place) -> Iterator[Match]:
    operation = reader.operation(place)
    # The index holds a long digest by its SHA-256: the entry itself has the last word.
    if fingerprint in operation.fingerprints:
        yield Match(
            origin=reader.origin(place.list),
            fingerprint=fingerprint,
            operation=operation,
            position=place.position,
        )


def show(store: Store, record: ListRecord, text: str) -> list[list[Provenance]]:
    """Return the versions of each entry of a list that an id or a hash names, oldest first.

    Raises:
        UsageError: the list never had such an entry.
        FingerprintError: it starts like a hash and is none.
    """
    with store.snapshot() as connection:
        reader = _Reader(connection)
        named = _entries_named(connection, reader, record, text)
        if not named:
            raise UsageError(f"{record.origin} has never had an entry {text!r}")
        return [
            [
                reader.provenance(version.place, version.until)
                for version in entries.load_versions(connection, record.list, entry)
            ]
            for entry in named
        ]


def _entries_named(
    connection: sqlite3.Connection, reader: _Reader, record: ListRecord, text: str
) -> list[EntryId]:
    """Return the entries that an id names, or else those that ever had a fingerprint."""
    entry = EntryId.parse(text)
    named = {entry} if entries.load_versions(connection, record.list, entry) else set()
    foreign = _read_foreign(text)
    try:
        fingerprints = candidates(text) if foreign is None else (foreign,)
    except FederationError:
        fingerprints = ()
    for fingerprint in fingerprints:
        for place in entries.find_entries(connection, record.list, fingerprint):
            operation = reader.operation(place)
            if fingerprint in operation.fingerprints:
                named.add(operation.entry)
    return sorted(named)


# --- what changed ---------------------------------------------------------------------------


def diff(store: Store, record: ListRecord, start: int, stop: int) -> Iterator[Change]:
    """Yield what became of each entry between two positions of a list.

    Raises:
        UsageError: the second is before the first.
    """
    if stop < start:
        raise UsageError(f"the second point (position {stop}) is before the first ({start})")
    yield from history.iter_changes(store.connection, record.list, start, stop)


# --- logs and status --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One delta of a list's log.

    Attributes:
        position: its position.
        header: what the publisher signed.
        delta_hash: its leaf hash.
        received_ms: when this node accepted it (or signed it).
        via: the peer that it came from; None for our own.
        version: the store version that it came in with.
        body_size: bytes of its body.
    """

    position: int
    header: Header
    delta_hash: bytes
    received_ms: int
    via: OrgName | None
    version: int
    body_size: int


def read_log(store: Store, record: ListRecord, limit: int | None) -> Iterator[LogLine]:
    """Yield the deltas of a list, newest first."""
    for number, delta in enumerate(
        log.iter_records(store.connection, record.list, 0, record.log.size, newest=True)
    ):
        if limit is not None and number >= limit:
            return
        yield LogLine(
            position=delta.position,
            header=Header.parse(delta.header),
            delta_hash=leaf_hash(delta.header),
            received_ms=delta.received_ms,
            via=delta.via,
            version=delta.version,
            body_size=delta.body_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListStatus:
    """How one list stands here.

    Attributes:
        record: the list.
        follow: how following it goes.
        behind: deltas that the peer has and this node has not.
    """

    record: ListRecord
    follow: FollowStatus
    behind: int


def list_statuses(store: Store, mark: HighWater, *, clock: Clock) -> list[ListStatus]:
    """Return how every list stands here, by origin; our own as the high-water mark says too."""
    with store.snapshot() as connection:
        statuses = []
        for record in list(registry.iter_lists(connection)):
            follow = guarding.status_now(store, mark, record, clock=clock)
            behind = max(0, follow.head - record.log.size)
            statuses.append(ListStatus(record=record, follow=follow, behind=behind))
        return statuses
