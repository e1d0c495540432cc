"""Asks peers which checkpoints of our own lists they hold, and for the time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from federation.errors import FederationError
from federation.names import OrgName, Origin
from federation.recovery import PeerReport, read_report
from federation.trust.orgroot import PinnedRoot
from node.errors import NodeError
from node.store.orgs import Peer
from node.sync.client import Offers, TlsIdentity, fetch_logs, open_channel
from node.telemetry.logs import get_logger

_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What all peers said about our lists.

    Attributes:
        answers: for each list, one answer of each peer.
        charters: for each list, the newest charter that a peer holds, as a verified envelope.
    """

    answers: Mapping[Origin, tuple[PeerReport, ...]]
    charters: Mapping[Origin, bytes]


async def ask_peers(
    peers: Sequence[Peer],
    origins: Sequence[Origin],
    root: PinnedRoot,
    identity: TlsIdentity,
    *,
    seconds: float,
) -> Found:
    """Ask all peers at the same time which checkpoints of our lists they hold.

    A peer that cannot be reached in time, or that shows what we did not sign, counts as silent.

    Args:
        peers: the peers to ask.
        origins: our lists.
        root: our org root.
        identity: what this node shows to peers.
        seconds: how long to wait.
    """
    offers = await _fetch_all(peers, identity, seconds)
    answers: dict[Origin, tuple[PeerReport, ...]] = {}
    newest: dict[Origin, tuple[int, bytes]] = {}
    for origin in origins:
        said = []
        for peer, offered in zip(peers, offers, strict=True):
            answer, charter = _read(peer, offered, origin, root)
            said.append(answer)
            if charter is not None and charter[0] > newest.get(origin, (0, b""))[0]:
                newest[origin] = charter
        answers[origin] = tuple(said)
    return Found(
        answers=answers, charters={origin: envelope for origin, (_, envelope) in newest.items()}
    )


async def ask_times(
    peers: Sequence[Peer], identity: TlsIdentity, *, seconds: float
) -> dict[OrgName, int]:
    """Ask all peers for the time; return what their clocks say, in milliseconds since 1970.

    Peers that cannot be reached in time, or do not report their time, are left out.
    """
    offers = await _fetch_all(peers, identity, seconds)
    return {
        peer.org: offered.sent_ms
        for peer, offered in zip(peers, offers, strict=True)
        if offered is not None and offered.sent_ms is not None
    }


async def _fetch_all(
    peers: Sequence[Peer], identity: TlsIdentity, seconds: float
) -> list[Offers | None]:
    return await asyncio.gather(*(_fetch(peer, identity, seconds) for peer in peers))


async def _fetch(peer: Peer, identity: TlsIdentity, seconds: float) -> Offers | None:
    channel = open_channel(peer, identity)
    try:
        async with asyncio.timeout(seconds):
            return await fetch_logs(channel, peer.org)
    except (NodeError, TimeoutError) as error:
        _log.info("peer_silent", peer=peer.org, detail=str(error) or "no answer in time")
        return None
    finally:
        await channel.close()


def _read(
    peer: Peer, offers: Offers | None, origin: Origin, root: PinnedRoot
) -> tuple[PeerReport, tuple[int, bytes] | None]:
    """Return what a peer said about one list, and its charter with the version."""
    if offers is None:
        return PeerReport(peer=peer.org, answered=False), None
    # If there are two for one list, the last one counts: such a peer breaks the protocol anyway.
    offer = {offered.origin: offered for offered in offers.lists}.get(str(origin))
    if offer is None:
        return PeerReport(peer=peer.org, answered=True, time_ms=offers.sent_ms), None
    try:
        report, charter = read_report(
            peer.org,
            origin,
            root,
            checkpoint=offer.checkpoint,
            charter=offer.charter,
            time_ms=offers.sent_ms,
        )
    except FederationError as error:
        _log.warning("peer_answer_refused", peer=peer.org, origin=str(origin), detail=str(error))
        return PeerReport(peer=peer.org, answered=False), None
    return report, None if charter is None else (charter.version, offer.charter)
