"""Turns staged changes into signed deltas of one of our own lists.

The commitments to single operations (`federation.commitment`) take most of the time. Some of them
were computed when the operations were staged. The rest are computed some deltas ahead, by two
processes if there is much to publish. The second process knows no key and opens no store.

Order of durability: a delta is signed, checked as any subscriber would check it, and committed
together with its effect on the entries. Then the high-water mark is raised. Then the delta is
released; `serve` reads only what is released (`node.publish.permit`). After that, the staged
changes are deleted. The commit also records which of them were signed, so that a crash in between
does not make the next publication sign them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice
from types import TracebackType
from typing import Final, Self

from federation import limits
from federation.author import Author, ChangeSet
from federation.errors import SequenceError
from federation.keys import Signer
from federation.names import Origin
from federation.replica import LogState, Replica
from federation.trust.orgroot import PinnedRoot, Role
from node.clock import Clock
from node.errors import CommandError, NodeError
from node.identity.keys import require_role
from node.publish.bodies import Composed, Part, compose
from node.publish.permit import Permit
from node.staging.commitments import SLOTS
from node.staging.file import StagedRange, Staging
from node.store import index, lists, log, orgs
from node.store.connection import Store, Transaction
from node.store.lists import ListRecord
from node.store.release import load_signed_range, store_signed_range
from node.system.worker import Pair

_BODY_FRAMING: Final = 16 * 1024
"""Bytes of a body kept free for what surrounds the columns."""

DELTA_WEIGHT: Final = 50
"""The cost of a delta to a new subscriber besides its operations, expressed in operations: some 540
bytes of header and checkpoint and 150 us for signatures. An operation costs 37 bytes and a few us.
"""

_TRANSACTION_PARTS: Final = 16
"""Parts in one transaction; nearly every part is one delta. There are enough of them to hide the
cost of a commit, and few enough that another writer never waits for long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What was published.

    Attributes:
        origin: the list.
        first: the position of the first new delta.
        size: how many deltas the list has now.
        ops: how many operations were signed.
        dropped: how many staged withdrawals of withdrawn entries were not signed again.
        live_count: how many live entries it has now.
    """

    origin: Origin
    first: int
    size: int
    ops: int
    dropped: int
    live_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishingKeys:
    """The keys that publishing needs.

    Attributes:
        publisher: signs delta headers.
        log: signs checkpoints.
    """

    publisher: Signer
    log: Signer


def load_author(
    store: Store, origin: Origin, keys: PublishingKeys
) -> tuple[ListRecord, PinnedRoot, Author]:
    """Return one of our lists, our pinned root, and who signs for the list with these keys.

    Raises:
        CommandError: the list is not ours.
        ConfigError: a key is not one that our org root names.
    """
    record = lists.load_list(store.connection, origin)
    root = orgs.load_root(store.connection, origin.org)
    if record is None or not record.own or root is None:
        raise CommandError(
            f"{origin} is not a list of this node", hint="run 'hashfed list' to see its lists"
        )
    require_role(keys.publisher, Role.PUBLISHER, root.document)
    require_role(keys.log, Role.LOG, root.document)
    return record, root, Author(origin, root, publisher=keys.publisher, log=keys.log)


class Publishing:
    """The staged changes of a list, to be signed as one delta, or as several above the cap.

    Use it as a context manager. The caller holds the lock on publishing, so that no other process
    signs for this store.
    """

    def __init__(
        self, store: Store, staging: Staging, origin: Origin, keys: PublishingKeys
    ) -> None:
        """Begin, without signing anything yet.

        Args:
            store: the store, open for writing.
            staging: the list's staged changes.
            origin: the list.
            keys: the keys to sign with.

        Raises:
            CommandError: the list is not ours.
            ConfigError: a key is not one that our org root names.
            StoreError: the staged changes cannot be written.
        """
        record, self._root, self._author = load_author(store, origin, keys)
        self._store = store
        self._staging = staging
        self._record = record
        extent = _load_extent(store, record.list)
        if extent is not None:
            # Usually there are none; after a crash, these were signed and are still staged.
            staging.remove(extent)
        batches = staging.iter_batches(limits.MAX_BODY_OPS, limits.MAX_BODY_BYTES - _BODY_FRAMING)
        with ExitStack() as stack:
            pair = stack.enter_context(Pair(staging.path.parent, slots=SLOTS))
            parts = compose(store.connection, record.span, record.log.size, batches, pair)
            stack.enter_context(closing(parts))
            self._open = stack.pop_all()
        self._groups = _in_groups(parts, _TRANSACTION_PARTS)
        self._ahead: deque[_Group] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def compose(self) -> None:
        """Compose the first deltas, while the caller still finds out whether they may be signed.

        Raises:
            UsageError, NodeError: as `node.publish.bodies.compose`.
        """
        self._ahead.extend(islice(self._groups, 1))

    def sign(
        self,
        permit: Permit,
        *,
        clock: Clock,
        on_progress: Callable[[int], None] = lambda _ops: None,
    ) -> Publication:
        """Sign all of it.

        Args:
            permit: says that nothing newer of the list was released than is here.
            clock: tells the time of each delta.
            on_progress: told the number of operations done so far, whenever more are released.

        Raises:
            MarkMovedError: the store or the mark is not as the permit says: nothing was released.
            DiskError: the disk failed: the process has to end.
            NodeError: the clock is behind, the store cannot be written, or a check of our own
                delta failed. What was published before that stays published.
        """
        store, origin = self._store, self._record.origin
        first = self._record.log.size
        ops = dropped = 0
        for group in chain(self._ahead, self._groups):
            with permit.step(store) as step, store.write("publish", str(origin)) as transaction:
                signing = _Signing(transaction, origin, self._author, self._root, clock, first)
                for part, is_last in group:
                    for composed in part.bodies:
                        signing.add(composed, is_last=is_last and composed is part.bodies[-1])
                extent = group[0][0].extent.through(group[-1][0].extent)
                signing.finish(extent)
                step.stage(signing.before, signing.after)
            ops += signing.ops
            dropped += sum(part.dropped for part, _ in group)
            # Report this first: others may already be receiving what was released.
            on_progress(ops + dropped)
            self._staging.remove(extent)
        record = lists.load_list_by_number(store.connection, self._record.list)
        return Publication(
            origin=origin,
            first=first,
            size=record.log.size,
            ops=ops,
            dropped=dropped,
            live_count=record.log.live_count,
        )


_Group = list[tuple[Part, bool]]
"""Parts that are signed in one transaction; each says whether it is the very last one."""


def _in_groups(parts: Iterable[Part], size: int) -> Iterator[_Group]:
    """Yield groups of at most `size` parts."""
    group: _Group = []
    ahead = iter(parts)
    current = next(ahead, None)
    while current is not None:
        following = next(ahead, None)
        group.append((current, following is None))
        if len(group) == size or following is None:
            yield group
            group = []
        current = following


class _Signing:
    """Signs deltas of one list within one transaction."""

    def __init__(
        self,
        transaction: Transaction,
        origin: Origin,
        author: Author,
        root: PinnedRoot,
        clock: Clock,
        change_set: int,
    ) -> None:
        record = lists.load_list(transaction.connection, origin)
        if record is None:
            raise CommandError(f"this node no longer has the list {origin}")
        self._transaction = transaction
        self._record: ListRecord = record
        self._author = author
        # A publisher is the first subscriber of its own list: its deltas pass the same checks
        # before anybody can read them.
        self._replica = Replica(origin, root, record.log)
        self._clock = clock
        self._change_set = change_set
        self.ops = 0

    @property
    def before(self) -> LogState:
        """The log when the transaction began."""
        return self._record.log

    @property
    def after(self) -> LogState:
        """The log now."""
        return self._replica.state

    def add(self, composed: Composed, *, is_last: bool) -> None:
        """Sign a body as the next delta."""
        body, prior = composed.body, composed.prior
        state = self._replica.state
        now_ms = self._clock.now_ms()
        try:
            delta = self._author.sign(
                body,
                prior,
                state,
                change_set=ChangeSet(first=self._change_set, last=is_last),
                now_ms=now_ms,
                commitment=composed.commitment,
            )
        except SequenceError as error:
            raise NodeError(
                str(error),
                hint="what was published so far stays published; the rest stays staged",
                reason=error.reason,
            ) from error
        candidate = self._replica.receive(delta, now_ms=now_ms)
        self._replica.conclude(candidate, prior)
        number = self._record.list
        log.append(self._transaction, number, state.size, delta, via=None, received_ms=now_ms)
        index.index_body(self._transaction, self._record.span, state.size, candidate.body, prior)
        self.ops += body.count

    def finish(self, extent: StagedRange) -> None:
        """Record the log as it is now, and which of the staged changes were signed."""
        record = self._record
        lists.store_log_state(self._transaction, record.list, self._replica.state)
        deltas = self._replica.state.size - record.log.size
        lists.store_since_snapshot(
            self._transaction,
            record.list,
            record.since_snapshot + self.ops + deltas * DELTA_WEIGHT,
        )
        signed = (extent.staging, extent.first, extent.last, extent.edit)
        store_signed_range(self._transaction.connection, self._record.list, signed)


def _load_extent(store: Store, list_number: int) -> StagedRange | None:
    signed = load_signed_range(store.connection, list_number)
    return None if signed is None else StagedRange(*signed)
