"""Which peers are followed, and a session for each: once (`hashfed sync`) or for ever (`serve`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from federation.follow import FollowReason, FollowState, News, decide, is_frozen
from federation.names import OrgName, Origin
from node.errors import DamageError, LockedError, UnreachableError
from node.ingest import deltas
from node.store import damage, follow_state, lists, orgs
from node.store.connection import Store
from node.store.orgs import Peer
from node.sync.intake import Progress
from node.sync.session import ListResult, Session, Tools
from node.telemetry.logs import get_logger

_SETTLE_SECONDS: Final = 0.5
"""Changes within this time are handled together: every accepted batch is a change."""

_DAMAGED_SECONDS: Final = 60.0
"""Time between two attempts to read what is to be followed, while that is damaged."""

_log = get_logger()


@dataclass(slots=True)
class _Plan:
    """Which lists to follow, and from which peers.

    Attributes:
        wanted: for each peer, the lists that are followed from it.
        peers: those peers.
        lost: lists whose peer is no longer known.
    """

    wanted: dict[OrgName, set[Origin]] = field(default_factory=dict)
    peers: dict[OrgName, Peer] = field(default_factory=dict)
    lost: list[Progress] = field(default_factory=list)


def _load_plan(store: Store, only: Callable[[Origin], bool], *, frozen: bool) -> _Plan:
    plan = _Plan()
    known = damage.load(store.path)
    plan.peers = {peer.org: peer for peer in orgs.iter_peers(store.connection)}
    for record in list(lists.iter_lists(store.connection)):
        if record.own or record.via is None or not only(record.origin):
            continue
        status = follow_state.with_damage(
            follow_state.load_follow_status(store.connection, record.list),
            known.of(str(record.origin)),
        )
        if record.via not in plan.peers:
            size = record.log.size
            plan.lost.append(
                Progress(
                    origin=record.origin,
                    before=size,
                    size=size,
                    state=status.state,
                    reason=status.reason,
                )
            )
        elif frozen or not is_frozen(status.state, status.reason):
            plan.wanted.setdefault(record.via, set()).add(record.origin)
    return plan


def _all(_origin: Origin) -> bool:
    return True


async def sync_once(tools: Tools, only: Collection[Origin] | None = None) -> list[ListResult]:
    """Fetch what all peers have, from all of them at the same time.

    Args:
        tools: what the sessions share.
        only: the lists that are wanted; None for all.

    Returns:
        What became of each list, by origin. A peer that fails is an error of its lists alone.

    Raises:
        StoreError: the store cannot be written.
        LockedError: another process holds it.
    """
    wanted = _all if only is None else frozenset(only).__contains__
    plan = await tools.writer.run(lambda store: _load_plan(store, wanted, frozen=True))
    sessions = [Session(plan.peers[org], tools) for org in plan.wanted]
    tasks = [asyncio.create_task(session.run_once(wanted)) for session in sessions]
    try:
        results = [result for found in await asyncio.gather(*tasks) for result in found]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await _note_lost(tools, plan)
    results.extend(_lost_result(progress) for progress in plan.lost)
    return sorted(results, key=lambda result: result.origin)


def _lost_result(progress: Progress) -> ListResult:
    return ListResult(
        origin=progress.origin,
        via=OrgName(""),
        before=progress.size,
        after=progress.size,
        head=0,
        ops=0,
        bytes=0,
        joined=None,
        state=FollowState.STALE,
        reason=FollowReason.NO_PEER,
        error=UnreachableError(
            f"{progress.origin}: this node no longer knows the peer that it was followed from",
            hint=f"run 'hashfed follow {progress.origin} --via PEER'",
            reason=FollowReason.NO_PEER,
        ),
    )


async def _note_lost(tools: Tools, plan: _Plan) -> None:
    # If a list waits for a person, the loss of its peer must not hide why.
    news = [
        item
        for item in plan.lost
        if item.reason != FollowReason.NO_PEER
        and decide(item.state, item.reason, News.PEER_UNKNOWN).state is not None
    ]
    if not news:
        return

    def note(store: Store) -> None:
        for progress in news:
            deltas.learn(
                store,
                progress.origin,
                News.PEER_UNKNOWN,
                clock=tools.clock,
                detail="this node no longer knows the peer that it was followed from",
            )

    await tools.writer.run(note)


class Follower:
    """Keeps a session for each peer from which lists are followed."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._sessions: dict[OrgName, tuple[Session, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Note that the followed lists may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            StoreError: the store cannot be written.
        """
        try:
            while True:
                self._changed.clear()
                try:
                    plan = await self._tools.writer.run_aside(
                        lambda store: _load_plan(store, _all, frozen=False)
                    )
                    await _note_lost(self._tools, plan)
                except LockedError as error:
                    # Perhaps a long import holds the store: the running sessions go on.
                    _log.warning("store_locked", detail=str(error))
                    self.wake()
                except DamageError as error:
                    _log.error("store_damaged", detail=str(error))
                    await asyncio.sleep(_DAMAGED_SECONDS)
                    self.wake()
                else:
                    await self._reconcile(plan)
                await self._wait()
        finally:
            tasks = [task for _, task in self._sessions.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _reconcile(self, plan: _Plan) -> None:
        for org, (session, task) in list(self._sessions.items()):
            # A new address or certificate needs a new session.
            if org not in plan.wanted or plan.peers[org] != session.peer:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                del self._sessions[org]
        for org, origins in plan.wanted.items():
            held = self._sessions.get(org)
            if held is not None:
                held[0].update(origins)
                continue
            session = Session(plan.peers[org], self._tools)
            self._sessions[org] = (session, asyncio.create_task(session.run()))

    async def _wait(self) -> None:
        """Wait for a change; raise the error of a session."""
        changed = asyncio.create_task(self._changed.wait())
        tasks = [task for _, task in self._sessions.values()]
        try:
            await asyncio.wait([changed, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        for task in tasks:
            if task.done():
                await task
        await asyncio.sleep(_SETTLE_SECONDS)
