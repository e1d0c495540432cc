"""Checks behind acceptance: the ops tree of each delta, the state digest after each leaf.

They bind nothing that the body's digest does not bind already, so acceptance leaves them for later.
`node.fsck.check` checks everything that is stored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from federation import diagnosis
from federation import state as states
from federation.checkpoint import open_checkpoint
from federation.errors import FederationError, ProofError, Reason
from federation.follow import FollowState, decide, news_of
from federation.header import Header, LeafKind, verify_header
from federation.replica import Replica
from federation.trust.orgroot import PinnedRoot
from node.clock import Clock
from node.errors import DamageError
from node.store import follow_state, index, lists, log, orgs, snapshots
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.log import DeltaRecord
from node.store.snapshots import SnapshotRecord
from node.store.sqlite import sqlite3

_TAIL_BYTES: Final = 1024 * 1024
"""How many bytes of the newest bodies `check_tail` always reads: some milliseconds."""


def check_behind(store: Store, budget_seconds: float, *, clock: Clock) -> int:
    """Check ops trees and state digests of accepted deltas for a while.

    A header whose two commitments disagree is signed evidence against its publisher: the list is
    quarantined, and nothing is undone.

    Args:
        store: the store, open for writing.
        budget_seconds: stop after about this long.
        clock: tells the time of a change of state.

    Returns:
        How many deltas were checked; 0 when none were left.
    """
    deadline = time.monotonic() + budget_seconds
    checked = 0
    for record in list(lists.iter_lists(store.connection)):
        fault, buckets = _check_base(store, record, deadline)
        checked += buckets
        at = record.checked
        while fault is None and at < record.log.size and time.monotonic() < deadline:
            try:
                check_commitments(store, record, at)
            except ProofError as error:
                fault = error
            at += 1
        if at > record.checked or fault is not None:
            checked += at - record.checked
            with store.update_status() as connection:
                # A failed check counts as done: it is recorded once, and does not stop a person
                # again who follows the list all the same.
                lists.store_checked(connection, record.list, at)
                if fault is not None:
                    _quarantine(connection, record, fault, clock.now_ms())
    return checked


def _quarantine(
    connection: sqlite3.Connection, record: ListRecord, fault: ProofError, now_ms: int
) -> None:
    held = follow_state.load_follow_status(connection, record.list)
    if record.own:
        state = None if held.state is FollowState.FORKED else FollowState.QUARANTINED
    else:
        state = decide(held.state, held.reason, news_of(fault)).state
    if state is not None:
        follow_state.store_follow_state(
            connection,
            record.list,
            state,
            now_ms=now_ms,
            reason=fault.reason,
            detail=str(fault),
        )


def _check_base(store: Store, record: ListRecord, deadline: float) -> tuple[ProofError | None, int]:
    """Add buckets of a span's first snapshot to the state digest for a while.

    Returns:
        What is wrong with the digest that was signed with the snapshot, known once all buckets are
        added; and how many were added.
    """
    if record.base is None:
        return None, 0
    base = snapshots.load(store.connection, record.base)
    if base is None:
        raise DamageError(f"the snapshot that {record.origin} begins with is missing")
    start = snapshots.load_checked(store.connection, record.base)
    at, digest = start.buckets, start.digest
    while at < base.buckets and time.monotonic() < deadline:
        bucket = snapshots.load_bucket(store.connection, record.base, at)
        digest = states.add_bucket(digest, bucket)
        at += 1
    if at == start.buckets:
        return None, 0
    signed = log.read_header(base.offer.header).state_digest
    if at == base.buckets and digest != signed:
        # Do this before it is recorded as checked: if it raises, the check has to run again.
        _require_whole_buckets(store, record, base)
    with store.update_status() as connection:
        snapshots.store_checked(connection, record.base, at, digest)
    if at == base.buckets and digest != signed:
        return ProofError(
            f"the snapshot of {record.origin} at position {base.position}: its entries are not the "
            "live set that its owner signed",
            reason=Reason.STATE_DIGEST_MISMATCH,
        ), at - start.buckets
    return None, at - start.buckets


def _require_whole_buckets(store: Store, record: ListRecord, base: SnapshotRecord) -> None:
    """Check that a snapshot's buckets are here as they were signed and were added up correctly.

    Raises:
        DamageError: they are not.
    """
    digest = states.EMPTY
    for number in range(base.buckets):
        data = snapshots.load_bucket_bytes(store.connection, base.snapshot, number) or b""
        if not base.offer.has_bucket(number, data):
            raise DamageError(
                f"bucket {number} of the snapshot that {record.origin} begins with is damaged here",
                hint="run 'hashfed fsck'",
            )
        bucket = snapshots.load_bucket(store.connection, base.snapshot, number)
        digest = states.add_bucket(digest, bucket)
    if digest == log.read_header(base.offer.header).state_digest:
        raise DamageError(
            f"the record of the checks of {record.origin} is damaged here",
            hint="run 'hashfed fsck'",
        )


def check_commitments(store: Store, record: ListRecord, position: int) -> None:
    """Check the ops tree and the state digest of one accepted leaf; a snapshot has no operations.

    Raises:
        ProofError: OPS_ROOT_MISMATCH or STATE_DIGEST_MISMATCH.
        DamageError: the delta is not there.
    """
    before = states.EMPTY
    if position:
        before = _header(store, record, position - 1).state_digest
    header = _header(store, record, position)
    body = log.load_body(store.connection, record.list, position)
    prior = index.load_superseded_by(store.connection, record.span, position)
    if header.kind is LeafKind.DELTA and body.ops_root() != header.ops_root:
        _require_whole(store, record, position)
        raise ProofError(
            f"position {position} of {record.origin}: its operations do not hash to the root "
            "that its owner signed",
            reason=Reason.OPS_ROOT_MISMATCH,
        )
    if states.advance(before, body, position, prior) != header.state_digest:
        _require_whole(store, record, position)
        if prior != index.load_prior(store.connection, record.span, body, before=position):
            raise DamageError(
                f"position {position} of {record.origin}: the index and the record disagree about "
                "the operations that it replaced",
                hint="run 'hashfed fsck'",
            )
        raise ProofError(
            f"position {position} of {record.origin}: the live set is not the one that its owner "
            "signed",
            reason=Reason.STATE_DIGEST_MISMATCH,
        )


def _require_whole(store: Store, record: ListRecord, position: int) -> None:
    """Check that a leaf and the one before it are here as they were signed.

    The signer must not be blamed for what a disk has spoiled since.

    Raises:
        DamageError: they are not.
    """
    root = orgs.load_root(store.connection, record.origin.org)
    if root is None:
        raise DamageError(
            f"the org root of {record.origin.org} is missing", hint="run 'hashfed fsck'"
        )
    if position > record.log.start:
        check_leaf(store.connection, record, root, position - 1)
    check_whole_leaf(store.connection, record, root, position)


def check_whole_leaf(
    connection: sqlite3.Connection, record: ListRecord, root: PinnedRoot, position: int
) -> None:
    """Check that a stored leaf and its body are what was signed for its position.

    Raises:
        DamageError: it is not, or it is not here.
    """
    header = check_leaf(connection, record, root, position)
    data = log.load_body_bytes(connection, record.list, position) or b""
    if sha256(data).digest() != header.body_digest:
        raise DamageError(
            f"the body of position {position} of {record.origin} is damaged here",
            hint="run 'hashfed fsck'",
        )


def check_leaf(
    connection: sqlite3.Connection, record: ListRecord, root: PinnedRoot, position: int
) -> Header:
    """Check that a stored leaf, without its body, is what was signed; return what it says.

    Raises:
        DamageError: it is not, or it is missing.
    """
    held = log.load_record(connection, record.list, position)
    try:
        if held is None:
            raise ProofError("it is missing")
        header = Header.parse(held.header)
        verify_header(held.header, root.document.publisher_key(header.key_id))
        verifiers = root.document.log_verifiers(record.origin)
        newest = open_checkpoint(held.checkpoint, str(record.origin), verifiers)
        if (header.position, newest.size) != (position, position + 1):
            raise ProofError("it belongs to another position")
    except FederationError as error:
        raise DamageError(
            f"position {position} of {record.origin} is damaged here: {error}",
            hint="run 'hashfed fsck'",
        ) from error
    return header


def check_tail(store: Store, record: ListRecord, root: PinnedRoot, deltas: int) -> None:
    """Check that a list's newest deltas and its recorded state are what was signed.

    The work is bounded, unlike that of `fsck`: a failing disk loses or changes what was written
    last. The bodies of the newest two steps of `publish` are read, and of earlier steps as many as
    cost almost no time.

    Args:
        store: the store.
        record: the list.
        root: its owner's org root.
        deltas: how many of the newest to look at.

    Raises:
        DamageError: they are not; nothing may be signed on top of them.
    """
    size = record.log.size
    start = max(0, size - deltas)
    held = list(log.iter_records(store.connection, record.list, start, size))
    first_body = _first_body(held)

    def load_body(position: int) -> bytes | None:
        if position < first_body:
            return None
        return log.load_body_bytes(store.connection, record.list, position) or b""

    try:
        before = log.load_record(store.connection, record.list, start - 1) if start else None
        if [at.position for at in held] != list(range(start, size)):
            raise ProofError("a position is missing")
        diagnosis.check_tail(
            Replica(record.origin, root, record.log),
            None if before is None else before.header,
            {at.position: at.header for at in held},
            held[-1].checkpoint if held else b"",
            load_body,
        )
    except FederationError as error:
        raise DamageError(
            f"the newest deltas of {record.origin} are damaged: {error}",
            hint="nothing was signed; run 'hashfed fsck', keep the store's file, restore a backup",
        ) from error


def _first_body(held: Sequence[DeltaRecord]) -> int:
    """Return the first position whose body `check_tail` reads."""
    # A step is one transaction, so it is one version of the store.
    newest = sorted({record.version for record in held})[-2:]
    size, first = 0, 0
    for record in reversed(held):
        size += record.body_size
        if record.version not in newest and size > _TAIL_BYTES:
            break
        first = record.position
    return first


def _header(store: Store, record: ListRecord, position: int) -> Header:
    held = log.load_record(store.connection, record.list, position)
    if held is None:
        raise DamageError(f"position {position} of {record.origin} is missing")
    return log.read_header(held.header, f"position {position}")
