"""Checks the leaves of a list, span by span: every part of each, and its index rows.

It follows the log as a subscriber would. Where a subscriber refuses a leaf as a whole, each damaged
part is reported, and the log is followed on as far as later leaves say what the damaged part was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from federation import state as states
from federation.body import Body
from federation.diagnosis import UNKNOWN, Diagnosis, Part, diagnose
from federation.errors import FederationError, OperationError
from federation.header import Header, LeafKind
from federation.merge import Prior, merge
from federation.replica import LogState, Replica, SignedDelta
from federation.snapshot import Snapshot
from federation.trust.orgroot import PinnedRoot
from node.fsck.journal import SpanCursor
from node.fsck.scope import Scope, Steps
from node.store import consistency, index, log
from node.store.damage import DamageKind
from node.store.lists import ListRecord
from node.store.spans import Span

_KINDS: Final = {
    Part.HEADER: DamageKind.HEADER,
    Part.CHECKPOINT: DamageKind.CHECKPOINT,
    Part.BODY: DamageKind.BODY,
}


class LeafCheck:
    """Checks the spans of one list.

    Args:
        scope: the list.
        record: its record.
        root: the root of its owner.
        bases: the checked snapshots with which spans can begin, by number.
    """

    def __init__(
        self, scope: Scope, record: ListRecord, root: PinnedRoot, bases: Mapping[int, Snapshot]
    ) -> None:
        self._scope = scope
        self._record = record
        self._root = root
        self._bases = bases

    def run(self, span: Span) -> Steps:
        """Check one span from its cursor on."""
        base = None if span.snapshot is None else self._bases.get(span.snapshot)
        start = span.start
        if span.snapshot is None:
            start = 0
        elif base is not None:
            start = base.position + 1
        if span.start != start:
            yield self._scope.damage(
                DamageKind.RECORD,
                None,
                f"a span is recorded as beginning at size {span.start}, but it begins at {start}",
            )
        if span.snapshot is not None and base is None:
            yield self._scope.damage(
                DamageKind.SNAPSHOT, None, "nobody can say which snapshot its deltas follow"
            )
        replica = Replica(self._record.origin, self._root, LogState.empty())
        cursor = self._scope.journal.spans.get(span.span)
        if cursor is None:
            cursor = SpanCursor(position=start, state=LogState.empty() if not start else None)
            self._scope.journal.spans[span.span] = cursor
            if span.snapshot is not None:
                yield from self._begin(replica, span, base, cursor)
        recorded = self._record.log.size if span.stop is None else span.stop
        end = self._scope.end_of(self._record, span)
        while cursor.position < end:
            yield from self._leaf(replica, span, cursor)
            self._scope.done += 1
            yield None
        if end < recorded:
            cursor.state = None
            yield self._scope.damage(
                DamageKind.HEADER,
                max(end, start),
                f"the signed bytes are missing from here on: {recorded} leaves are recorded",
            )
        yield from self._check_later(span, recorded)

    def _begin(
        self, replica: Replica, span: Span, base: Snapshot | None, cursor: SpanCursor
    ) -> Steps:
        """Check the leaf of the snapshot with which a span begins, and continue after it."""
        assert span.snapshot is not None  # noqa: S101  # by who calls
        known = self._scope.journal.snapshots.get(span.snapshot)
        cursor.rows = None if known is None else known.rows
        if base is None:
            return
        before = LogState(
            frontier=base.before,
            last_leaf=b"",
            last_time_ms=0,
            live_count=UNKNOWN,
            state_digest=b"",
            start=base.position,
        )
        leaf = self._load(base.position)
        if leaf.header != base.offer.header:
            yield self._scope.damage(
                DamageKind.HEADER,
                base.position,
                "the leaf is not that of the stored snapshot",
            )
        found = diagnose(
            replica, before, base.position, leaf._replace(header=base.offer.header), None
        )
        for part, error in found.errors.items():
            yield self._scope.damage(_KINDS[part], base.position, f"{error} ({error.reason})")
        cursor.state = before.after(base.header, base.offer.header)

    def _load(self, position: int) -> SignedDelta:
        held = log.load_record(self._scope.connection, self._scope.number, position)
        data = log.load_body_bytes(self._scope.connection, self._scope.number, position)
        return SignedDelta(
            b"" if held is None else _octets(held.header),
            b"" if data is None else data,
            b"" if held is None else _octets(held.checkpoint),
        )

    def _leaf(self, replica: Replica, span: Span, cursor: SpanCursor) -> Steps:
        """Check one leaf and the index rows that it made."""
        position = cursor.position
        held = log.load_record(self._scope.connection, self._scope.number, position)
        leaf = self._load(position)
        before = cursor.state
        cursor.position += 1
        found = self._receive(replica, before, leaf)
        if found is None:
            found = self._diagnose(replica, before, position, leaf)
            if held is None:
                del found.errors[Part.HEADER], found.errors[Part.CHECKPOINT]
                yield self._scope.damage(
                    DamageKind.HEADER, position, "the signed bytes are missing"
                )
            elif not found.errors and before is not None and before.live_count != UNKNOWN:
                # Each has a valid signature, but they may not follow here.
                yield self._scope.damage(
                    DamageKind.HEADER, position, "it does not fit the leaf before"
                )
            for part, error in found.errors.items():
                yield self._scope.damage(_KINDS[part], position, _say(part, leaf, error))
        cursor.state = found.state
        if held is not None and held.body_size != len(leaf.body):
            yield self._scope.damage(
                DamageKind.RECORD,
                position,
                f"got a body of {len(leaf.body)} bytes, recorded {held.body_size}",
            )
        if found.header is None or found.body is None:
            cursor.rows = None
            return
        if found.header.kind is LeafKind.SNAPSHOT:
            cursor.snapshot = position
        if before is not None and before.live_count != UNKNOWN:
            yield from self._judge(span, before, found.header, found.body)
        expected, missing = index.check_index(
            self._scope.connection, span.span, position, found.body
        )
        yield from self._scope.name_rows(position, expected, missing, "")
        if cursor.rows is not None:
            cursor.rows += expected

    @staticmethod
    def _receive(replica: Replica, before: LogState | None, leaf: SignedDelta) -> Diagnosis | None:
        """Check a leaf as a subscriber does; None if that is impossible or the check fails."""
        if before is None or before.live_count == UNKNOWN:
            return None
        replica.state = before
        try:
            # The time of arrival is no longer known, so the leaf's own time is used.
            candidate = replica.receive(leaf, now_ms=Header.parse(leaf.header).time_ms)
        except FederationError:
            return None
        return Diagnosis(header=candidate.header, body=candidate.body, state=candidate.state)

    def _diagnose(
        self, replica: Replica, before: LogState | None, position: int, leaf: SignedDelta
    ) -> Diagnosis:
        following = log.load_record(self._scope.connection, self._scope.number, position + 1)
        return diagnose(
            replica, before, position, leaf, None if following is None else following.header
        )

    def _judge(
        self,
        span: Span,
        before: LogState,
        header: Header,
        body: Body,
    ) -> Steps:
        """Check what a leaf signs about its operations and the live set after it."""
        position = header.position
        prior = index.load_superseded_by(self._scope.connection, span.span, position)
        if header.kind is LeafKind.DELTA and body.ops_root() != header.ops_root:
            yield self._scope.damage(
                DamageKind.CLAIM,
                position,
                "its operations do not hash to the root that was signed",
            )
        if any(row >= body.count for row in prior):
            yield self._scope.damage(
                DamageKind.INTERVAL,
                position,
                "operations that it does not have are recorded as replacing others",
            )
        if _is_merged(before, header, body, prior):
            return
        derived = index.load_prior(self._scope.connection, span.span, body, before=position)
        counted = _is_counted(before, header, body, derived)
        if derived == dict(prior) and counted:
            # The record agrees with the index, so the signed digest is wrong.
            yield self._scope.damage(
                DamageKind.CLAIM, position, "the live set is not the one that was signed"
            )
            return
        wrong = [row for row in {*derived, *prior} if derived.get(row) != prior.get(row)]
        yield self._scope.damage(
            DamageKind.INTERVAL if wrong else DamageKind.INDEX,
            position,
            "the live set is not the one that was signed: what its operations took the place of "
            "is recorded otherwise",
            row=min(wrong, default=None),
        )

    def _check_later(self, span: Span, end: int) -> Steps:
        later = consistency.count_ended_later(self._scope.connection, span.span, end)
        if later:
            yield self._scope.damage(
                DamageKind.INTERVAL,
                None,
                f"{later} operations are recorded as replaced by leaves that are not here",
            )


def _octets(value: object) -> bytes:
    """Return stored bytes; empty bytes if damage has changed the type."""
    return value if isinstance(value, bytes) else b""


def _say(part: Part, leaf: SignedDelta, error: FederationError) -> str:
    if part is Part.BODY and not leaf.body:
        return "the signed bytes are missing"
    return f"{error} ({error.reason})"


def _is_counted(before: LogState, header: Header, body: Body, prior: Mapping[int, Prior]) -> bool:
    """Return whether a delta can be merged and has the number of live entries that it signs."""
    try:
        live_count = merge(body, prior, before.live_count)
    except OperationError:
        return False
    return live_count == header.live_count


def _is_merged(before: LogState, header: Header, body: Body, prior: Mapping[int, Prior]) -> bool:
    """Return whether a delta results in the live set that it signs, as far as it can be checked."""
    if not _is_counted(before, header, body, prior):
        return False
    digest = states.advance(before.state_digest, body, header.position, prior)
    return digest == header.state_digest
