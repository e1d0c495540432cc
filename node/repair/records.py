"""Copies the records that belong to no list from a damaged store into a new one.

Signed records are verified; unsigned records are copied as they are. A single flipped bit in bytes
that no peer can replace (pinned keys, certificates, names) is corrected, as only the right bytes
verify.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from federation import wire
from federation.errors import FederationError
from federation.names import OrgName
from federation.trust.orgroot import PinnedRoot
from node.errors import ConfigError
from node.identity.certificate import certificate_sha256
from node.repair import salvage
from node.repair.bitflips import correct_bit, correct_bit_of_text
from node.repair.salvage import Wreck
from node.store import rebuild
from node.store.connection import Store
from node.store.orgs import ORG_KEY
from node.store.rebuild import OrgRow, PeerRow, VersionRow
from node.store.sqlite import sqlite3

_INCARNATION: Final = "incarnation"
_INCARNATION_DIGITS: Final = 32

_MOST_LOST: Final = 1 << 20
"""The most versions that can be lost in a row; a number beyond that is damaged."""


def copy_records(wreck: Wreck, store: Store, org: OrgName) -> None:
    """Copy everything that belongs to no list: the node, organizations, peers, versions.

    Args:
        wreck: the damaged store.
        store: the new one.
        org: the organization of this node.

    Raises:
        StoreError: the new store could not be written.
    """
    with store.update_status() as connection:
        _copy_node(wreck, connection, org)
        _copy_orgs(wreck, connection)
        _copy_peers(wreck, connection)
        _copy_versions(wreck, connection)


def _copy_node(wreck: Wreck, connection: sqlite3.Connection, org: OrgName) -> None:
    rebuild.store_node(connection, ORG_KEY, org)
    for key, value in salvage.node_facts(wreck):
        # Without the old token, the new store has its own. Then our lists are only signed after
        # peers have been asked.
        if key == _INCARNATION and _is_incarnation(value):
            rebuild.store_node(connection, key, value)


def _is_incarnation(text: str) -> bool:
    return len(text) == _INCARNATION_DIGITS and all(letter in "0123456789abcdef" for letter in text)


# --- organizations ------------------------------------------------------------------------------


def _copy_orgs(wreck: Wreck, connection: sqlite3.Connection) -> None:
    for row in salvage.orgs(wreck):
        rebuild.add_if_possible(connection, _correct_org(row))


def _correct_org(row: OrgRow) -> OrgRow:
    """Return an organization, with a flipped bit in its root or its name corrected."""
    root = correct_bit(row.root, lambda tried: _is_root_of(tried, row.name))
    if root is not None:
        return row._replace(root=root)
    # Perhaps only the name is damaged, which is also in the root.
    opened = _open(row.root)
    return row if opened is None else row._replace(name=opened.document.org)


def _open(root: bytes) -> PinnedRoot | None:
    try:
        return wire.open_org_root(root)
    except FederationError:
        return None


def _is_root_of(root: bytes, org: str) -> bool:
    opened = _open(root)
    return opened is not None and opened.document.org == org


# --- peers --------------------------------------------------------------------------------------


def _copy_peers(wreck: Wreck, connection: sqlite3.Connection) -> None:
    for row in salvage.peers(wreck):
        org = rebuild.load_org(connection, row.org)
        root = None if org is None else _open(org[1])
        named = set() if root is None else set(root.document.tls_certificates)
        # If the root names no certificate, only the recorded digest is left.
        rebuild.add_if_possible(connection, _correct_peer(row, named or {row.certificate_sha256}))


def _correct_peer(row: PeerRow, digests: set[bytes]) -> PeerRow:
    """Return a peer, with a flipped bit in its certificate or the digest corrected.

    Args:
        row: the peer as it was read.
        digests: the possible digests of its certificate.
    """
    pem = correct_bit_of_text(row.certificate, lambda tried: _digest(tried) in digests)
    return row if pem is None else row._replace(certificate=pem, certificate_sha256=_digest(pem))


def _digest(pem: str) -> bytes:
    try:
        return certificate_sha256(pem)
    except (ConfigError, ValueError):
        return b""


# --- versions -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Times:
    """Times of the versions that were copied.

    Attributes:
        newest: the time of the newest version.
        earlier: an upper bound of the times of the versions before it.
    """

    newest: int = 0
    earlier: int = 0


def _copy_versions(wreck: Wreck, connection: sqlite3.Connection) -> None:
    """Copy the versions. A lost one is recorded as lost, and times never decrease."""
    times = _Times()
    known = 0
    for row in salvage.versions(wreck):
        if not known < row.version <= known + _MOST_LOST:
            continue
        for lost in range(known + 1, row.version):
            rebuild.add(connection, VersionRow(lost, times.newest, "lost", ""))
        if row.committed_ms >= times.newest:
            times = _Times(newest=row.committed_ms, earlier=times.newest)
        elif row.committed_ms >= times.earlier:
            # The time of the version before this one is too late.
            rebuild.store_committed(connection, row.version - 1, times.earlier)
            times.newest = row.committed_ms
        else:
            times.earlier = times.newest
        rebuild.add(connection, row._replace(committed_ms=times.newest))
        known = row.version
