"""Recovers our own lists: asks peers what they hold of them, and fetches what is missing here.

Everything is verified as a subscriber would do it and kept byte for byte; nothing is signed.
`serve` does this by itself (`node.sync.own_lists`), `hashfed recover` on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from federation.errors import ForkError, PeerError
from federation.follow import Following, Handling, Outcome, judge_recovery
from federation.names import OrgName, Origin
from federation.recovery import Action, Decision, Obstacle, PeerReport
from federation.replica import LogState
from federation.trust.orgroot import PinnedRoot
from node.admin import lists
from node.admin import peers as admin_peers
from node.clock import Clock
from node.errors import NodeError, ProtocolError, RecoveringError, StoreError
from node.publish import permit
from node.publish.high_water import HighWater
from node.store import orgs
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.orgs import Peer
from node.sync.ask import Found, ask_peers
from node.sync.client import Delivered, Opened, TlsIdentity, follow, open_channel
from node.sync.writer import Writer
from node.telemetry.logs import get_logger

_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryTools:
    """What recovery needs.

    Attributes:
        writer: writes to the store.
        identity: what this node shows to peers.
        clock: the time of day.
        mark: the high-water mark.
        lock: the lock on publishing.
        needed: how many peers must answer where answers are needed; None for all.
        ask_seconds: how long to wait for an answer.
        idle_timeout_seconds: how long a stream may be silent before it counts as broken.
    """

    writer: Writer
    identity: TlsIdentity
    clock: Clock
    mark: HighWater
    lock: Path
    needed: int | None
    ask_seconds: float
    idle_timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What became of one list.

    Attributes:
        origin: the list.
        before: how many deltas were here before.
        size: how many deltas are here now.
        sources: the peers that the new ones came from.
        answers: what peers said at the end.
    """

    origin: Origin
    before: int
    size: int
    sources: tuple[OrgName, ...]
    answers: tuple[PeerReport, ...]


async def ask(tools: RecoveryTools, origins: Sequence[Origin]) -> Found:
    """Ask all peers what they hold of our lists, and put newer charters in force.

    Raises:
        StoreError: the store cannot be read or written.
    """
    peers, root = await tools.writer.run(_load_peers)
    found = await ask_peers(peers, origins, root, tools.identity, seconds=tools.ask_seconds)
    for origin, envelope in found.charters.items():
        await tools.writer.run(partial(permit.take_charter, origin=origin, envelope=envelope))
    return found


async def recover(tools: RecoveryTools, origin: Origin) -> Recovered:
    """Fetch what peers hold of one of our lists and this node lacks, as long as they hold more.

    Raises:
        RecoveringError: a peer holds another history.
        NodeError: no peer that holds more could deliver it.
        StoreError: the store cannot be read or written.
    """
    before = size = (await _load(tools, origin)).log.size
    sources: list[OrgName] = []
    while True:
        found = await ask(tools, [origin])
        answers = found.answers[origin]
        decision = await tools.writer.run(partial(_look, tools, origin, answers))
        if decision.action is not Action.CATCH_UP:
            return Recovered(
                origin=origin, before=before, size=size, sources=tuple(sources), answers=answers
            )
        tools.mark.doubt(origin)
        await tools.writer.run(partial(_note, tools, origin, decision))
        source = await _fetch_from_any(tools, origin, decision.sources)
        size = (await _load(tools, origin)).log.size
        if source not in sources:
            sources.append(source)


async def _fetch_from_any(
    tools: RecoveryTools, origin: Origin, sources: Sequence[OrgName]
) -> OrgName:
    """Fetch from the first peer that delivers what is missing; return that peer."""
    failure: NodeError | None = None
    for org in sources:
        size = (await _load(tools, origin)).log.size
        try:
            await _fetch(tools, origin, org)
        except (RecoveringError, StoreError):
            raise
        except NodeError as error:
            failure = error
            _log.warning(
                "recovery_failed",
                origin=str(origin),
                peer=org,
                reason=error.reason,
                detail=str(error),
            )
        if (await _load(tools, origin)).log.size > size:
            return org
    if failure is not None:
        raise failure
    raise ProtocolError(f"{', '.join(sources)}: claims to hold more of {origin} than it sends")


async def _fetch(tools: RecoveryTools, origin: Origin, org: OrgName) -> None:
    """Fetch what a peer holds and this node lacks.

    A peer that says it has another history is asked for all of it: the first delta that differs
    proves either that it has, or that it is lying.
    """
    log = (await _load(tools, origin)).log
    outcome = await _fetch_after(tools, origin, org, log)
    handling = judge_recovery(outcome, from_start=False)
    if handling is Handling.ASK_AGAIN:
        outcome = await _fetch_after(tools, origin, org, LogState.empty())
        handling = judge_recovery(outcome, from_start=True)
    if handling is not Handling.TAKE:
        raise ProtocolError(
            f"{org} holds more of {origin} and answers {outcome.value}",
            hint="ask its operator for the state of that list on their node",
        )


async def _fetch_after(
    tools: RecoveryTools, origin: Origin, org: OrgName, log: LogState
) -> Outcome:
    """Fetch what follows a state of our log; return the peer's answer to it."""
    record = await _load(tools, origin)
    peer = await tools.writer.run(lambda store: admin_peers.load_peer(store, org))
    # Every delta of our own list has to be here: this copy must be able to answer for all of it.
    asked = Following.ask(log, deltas_only=True, from_start=False)
    cursor = asked.cursor(origin, log, record.charter_version)
    channel = open_channel(peer, tools.identity)
    try:
        async for event in follow(
            channel,
            org,
            [cursor],
            live=False,
            idle_timeout_seconds=tools.idle_timeout_seconds,
        ):
            if isinstance(event, Opened) and event.outcome is not Outcome.DELTAS:
                return event.outcome
            if isinstance(event, Delivered) and event.origin == str(origin):
                taken = partial(_take, tools, origin, org, event)
                size = await tools.writer.run(taken)
                _log.info("deltas_recovered", origin=str(origin), peer=org, size=size)
    finally:
        await channel.close()
    return Outcome.DELTAS


def _take(
    tools: RecoveryTools, origin: Origin, org: OrgName, event: Delivered, store: Store
) -> int:
    try:
        return permit.take_back(store, origin, event.deltas, via=org, clock=tools.clock)
    except ForkError as error:
        decision = Decision(
            action=Action.REFUSE, obstacle=Obstacle.PEER_DIFFERS, detail=f"{org}: {error}"
        )
        _note(tools, origin, decision, store)
        raise permit.refusal(origin, decision) from error
    except PeerError as error:
        raise ProtocolError(
            f"what {org} holds of {origin} does not verify: {error}",
            hint="try again when another peer that follows it can be reached",
            reason=error.reason,
        ) from error


async def _load(tools: RecoveryTools, origin: Origin) -> ListRecord:
    return await tools.writer.run(lambda store: lists.find_own_list(store, str(origin)))


def _load_peers(store: Store) -> tuple[list[Peer], PinnedRoot]:
    return list(orgs.iter_peers(store.connection)), orgs.own_root(store)


def _look(
    tools: RecoveryTools, origin: Origin, answers: Sequence[PeerReport], store: Store
) -> Decision:
    record = lists.find_own_list(store, str(origin))
    return permit.look(store, tools.mark, record, answers, clock=tools.clock, needed=tools.needed)


def _note(tools: RecoveryTools, origin: Origin, decision: Decision, store: Store) -> None:
    record = lists.find_own_list(store, str(origin))
    permit.record_decision(store, record, decision, clock=tools.clock)
