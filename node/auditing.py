"""Answers for any hash, entry, list and time: who asserted this, when, and how it came here.

Reads only; every answer comes from the signed bytes that are kept, found through the index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final, NamedTuple

from federation.body import PackedOp, Shape, unpack
from federation.entry import EntryId, Operation, OpKind
from federation.errors import FederationError, FingerprintError
from federation.fingerprint import Fingerprint, candidates
from federation.hashtypes import find_type
from federation.header import Header, leaf_hash
from federation.names import OrgName, Origin
from node import findings, guarding
from node.clock import Clock
from node.errors import DamageError, UsageError
from node.highwater import HighWater
from node.store import entries, fetched, history, log, registry, snapshots, spans
from node.store.connection import Store
from node.store.contents import Contents
from node.store.entries import Cuts, Place
from node.store.registry import FollowStatus, ListRecord
from node.store.sqlite import sqlite3

_LOOKUP_BATCH: Final = 100_000
"""Hashes that are looked up together. Of a large list, some hundred are in one body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLeaf:
    """What a publisher signed as one leaf of its log.

    Attributes:
        signed_ms: when.
        key_id: SHA-256 of the key that signed it.
        root_version: version of the org root that the key stood in.
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
            DamageError: they are none any more.
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
        version: the store version that it came in with.
        until: the position at which another operation took its place; None while in force.
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


class _Reader:
    """Loads operations and where they came from."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._origins: dict[int, Origin] = {}
        self.contents = Contents(connection)

    def origin(self, span: int) -> Origin:
        """Return the name of the list that a span is of."""
        origin = self._origins.get(span)
        if origin is None:
            number = self.contents.source(span).list
            origin = self._origins[span] = registry.load_origin(self._connection, number)
        return origin

    def operation(self, place: Place) -> Operation:
        """Return the operation at a place."""
        return self.contents.operation(place)

    def provenance(self, place: Place, until: int | None) -> Provenance:
        """Return the operation at a place with all that is known of its way here."""
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
            raise UsageError(f"position {at} is not here")
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
        (start,) = self._connection.execute(
            "SELECT start FROM span WHERE span = ?", (span,)
        ).fetchone()
        return int(start) - 1


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


# --- looking up -------------------------------------------------------------------------------


class Match(NamedTuple):
    """An assertion in force that has a fingerprint.

    Attributes:
        origin: the list that it is in.
        position: its position in the list's log.
        row: its row in that delta.
        fingerprint: the fingerprint that was asked for.
        packed: the assertion, as it was packed into the signed body.
    """

    origin: Origin
    position: int
    row: int
    fingerprint: Fingerprint
    packed: PackedOp

    @property
    def operation(self) -> Operation:
        """The assertion."""
        return unpack(self.packed)


Answer = list[Match] | FederationError
"""The matches of a hash, or why it is none."""

_Column = tuple[str, int]
"""Hash type and bytes of one digest."""

_Asked = tuple[Fingerprint, list[Match]]
"""A fingerprint that is looked up, and where its matches go."""


def lookup(store: Store, text: str, cuts: Cuts | None = None) -> list[Match]:
    """Return the assertions in force, in all lists, that have a hash.

    Args:
        store: where to look.
        text: a hash as `<type>:<digest>`, or a digest alone, which is looked up as each type that
            it could be.
        cuts: the point in history that is asked about; None for now.

    Raises:
        FingerprintError: it is no hash.
        DamageError: the index and the signed bytes do not say the same; or nothing was found, and
            a list is damaged in which it may be.
    """
    ((_, answer),) = _answer(store, [text], cuts)
    if isinstance(answer, FederationError):
        raise answer
    if not answer:
        for origin in withheld(store):
            findings.require_sound(store.path, origin)
    return answer


def withheld(store: Store) -> list[str]:
    """Return the lists that are known to be damaged: nothing is found in them."""
    known = findings.load(store.path)
    if not known.damages:
        return []
    origins = [origin for _, origin in registry.iter_origins(store.connection)]
    return [origin for origin in origins if known.of(origin) is not None]


def lookup_many(
    store: Store, texts: Iterable[str], cuts: Cuts | None = None
) -> Iterator[tuple[str, Answer]]:
    """Yield (text, matches or what is wrong with the text) for each text, in order.

    Takes many at a time, so that each body is read once for all of its matches in a batch. What is
    not found may be in a list that is `withheld`.

    Raises:
        DamageError: as `lookup`.
    """
    waiting = iter(texts)
    while batch := list(islice(waiting, _LOOKUP_BATCH)):
        yield from _answer(store, batch, cuts)


def _answer(store: Store, texts: list[str], cuts: Cuts | None) -> Iterator[tuple[str, Answer]]:
    # For each text, where the matches of each fingerprint go that it can be.
    wanted: list[tuple[list[Match], ...] | FederationError] = []
    asked: defaultdict[_Column, dict[bytes, _Asked]] = defaultdict(dict)
    with store.snapshot() as connection:
        for text in texts:
            try:
                fingerprints = _read_hash(connection, text, cuts)
            except FederationError as error:
                wanted.append(error)
                continue
            found = []
            for fingerprint in fingerprints:
                digest = fingerprint.digest
                alike = asked[fingerprint.type, len(digest)]
                question = alike.get(digest)
                if question is None:
                    question = alike[digest] = (fingerprint, [])
                found.append(question[1])
            wanted.append(tuple(found))
        reader = _Reader(connection)
        hidden = set(withheld(store))
        for column, questions in asked.items():
            _find_matches(connection, reader, column, questions, cuts, hidden)
    for text, readings in zip(texts, wanted, strict=True):
        if isinstance(readings, FederationError):
            yield text, readings
            continue
        answer = readings[0] if len(readings) == 1 else list(chain.from_iterable(readings))
        if len(answer) > 1:
            answer.sort(key=_by_list)
        yield text, answer


def _find_matches(
    connection: sqlite3.Connection,
    reader: _Reader,
    column: _Column,
    asked: Mapping[bytes, _Asked],
    cuts: Cuts | None,
    hidden: Collection[str],
) -> None:
    """Add the matches of digests of one type and width to what is asked."""
    type_name, width = column
    shape: Shape | None = None
    offsets: Sequence[int] = ()
    # By place, so that each body and bucket is read once.
    found = sorted(entries.find_many(connection, type_name, asked, cuts))
    if hidden:
        found = [place for place in found if str(reader.origin(place[0])) not in hidden]
    operations = reader.contents.iter_packed(found)
    for (span, _, position, row, digest), packed in zip(found, operations, strict=True):
        fingerprint, matches = asked[digest]
        # Neighbours share it.
        if packed.shape is not shape:
            shape = packed.shape
            offsets = shape.offsets(type_name, width) if shape.kind is OpKind.ASSERT else ()
        record = packed.record
        for at in offsets:
            if record[at : at + width] == digest:
                matches.append(Match(reader.origin(span), position, row, fingerprint, packed))
                break
        else:
            # A longer one is found by its SHA-256, which a digest of another type may be.
            if width <= entries.LONGEST_KEY:
                raise DamageError(
                    f"position {position} of {reader.origin(span)} does not say of "
                    f"{fingerprint.format()} what the index says",
                    hint="run 'hashfed fsck'",
                )


def _by_list(match: Match) -> tuple[Origin, int, int]:
    # The same on every node, however it numbers its lists, and came by what it holds of them.
    return match.origin, match.position, match.row


def _read_hash(
    connection: sqlite3.Connection, text: str, cuts: Cuts | None
) -> tuple[Fingerprint, ...]:
    """Return the fingerprints that a text can be, also one of a type that only a list here has."""
    try:
        return candidates(text)
    except FingerprintError as error:
        fingerprint = _read_foreign(text)
        # Rather mistyped than of a type that nobody here has heard of.
        if fingerprint is None or not entries.find_fingerprint(connection, fingerprint, cuts):
            raise error from None
        return (fingerprint,)


def _read_foreign(text: str) -> Fingerprint | None:
    """Return the fingerprint of a type that is not registered, from how it is shown, or None."""
    type_name, _, _ = text.partition(":")
    try:
        return None if find_type(type_name) else Fingerprint.parse_tagged(text, allow_unknown=True)
    except FingerprintError:
        return None


def show(store: Store, record: ListRecord, text: str) -> list[list[Provenance]]:
    """Return the versions of each entry of a list that an id or a hash names, oldest first.

    Raises:
        UsageError: the list never had such an entry.
        DamageError: the list is damaged here.
        FingerprintError: it starts like a hash and is none.
    """
    findings.require_sound(store.path, str(record.origin))
    with store.snapshot() as connection:
        reader = _Reader(connection)
        named = _entries_named(connection, reader, record, text)
        if not named:
            raise UsageError(f"{record.origin} has never had an entry {text!r}")
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
    connection: sqlite3.Connection, reader: _Reader, record: ListRecord, text: str
) -> list[EntryId]:
    """Return the entries that an id names, or else those that ever had a fingerprint."""
    entry = EntryId.parse(text)
    named = {entry} if history.load_versions(connection, record.list, entry) else set()
    foreign = _read_foreign(text)
    try:
        fingerprints = candidates(text) if foreign is None else (foreign,)
    except FederationError:
        fingerprints = ()
    for fingerprint in fingerprints:
        for span in spans.iter_applied(connection, record.list):
            for place in entries.find_entries(connection, span.span, fingerprint):
                operation = reader.operation(place)
                if fingerprint in operation.fingerprints:
                    named.add(operation.entry)
    return sorted(named)


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
    """Yield the deltas of a list, newest first.

    Raises:
        DamageError: the list is damaged here.
    """
    findings.require_sound(store.path, str(record.origin))
    for number, delta in enumerate(
        log.iter_records(store.connection, record.list, 0, record.log.size, newest=True)
    ):
        if limit is not None and number >= limit:
            return
        yield LogLine(
            position=delta.position,
            header=log.read_header(delta.header, f"position {delta.position}"),
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
        snapshot: the position of the snapshot that is served here, or None.
    """

    record: ListRecord
    follow: FollowStatus
    behind: int
    snapshot: int | None


def list_statuses(store: Store, mark: HighWater, *, clock: Clock) -> list[ListStatus]:
    """Return how every list stands here, by origin; our own as the high-water mark says too."""
    known = findings.load(store.path)
    with store.snapshot() as connection:
        statuses = []
        for record in list(registry.iter_lists(connection)):
            follow = registry.with_damage(
                guarding.status_now(store, mark, record, clock=clock),
                known.of(str(record.origin)),
            )
            behind = max(0, follow.head - record.log.size)
            held = snapshots.newest_held(connection, record.list)
            statuses.append(
                ListStatus(
                    record=record,
                    follow=follow,
                    behind=behind,
                    snapshot=None if held is None else held.position,
                )
            )
        return statuses
