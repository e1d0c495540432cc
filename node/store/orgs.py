"""This node's organization, organizations with pinned roots, and the peers among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from federation import wire
from federation.errors import MalformedError
from federation.names import OrgName
from federation.trust.orgroot import PinnedRoot
from node.errors import CommandError, StoreError, as_damage
from node.store.connection import Store, Transaction
from node.store.sqlite import sqlite3

ORG_KEY: Final = "org"
"""The key in the table `node` that says whose store this is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A node that may call here and that can be called.

    Attributes:
        org: its organization.
        address: `host:port`.
        certificate: its TLS certificate, PEM.
        certificate_sha256: SHA-256 of that certificate's DER form.
        added_ms: when it was added.
    """

    org: OrgName
    address: str
    certificate: str
    certificate_sha256: bytes
    added_ms: int


def load_node(connection: sqlite3.Connection, key: str) -> str | None:
    """Return one fact about this node, or None."""
    row = connection.execute("SELECT value FROM node WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def store_node(transaction: Transaction, key: str, value: str) -> None:
    """Record one fact about this node. It never changes afterwards."""
    transaction.connection.execute("INSERT INTO node (key, value) VALUES (?, ?)", (key, value))


def require_org(store: Store, org: OrgName) -> None:
    """Check that a store belongs to the organization that the configuration names.

    Raises:
        StoreError: FOREIGN, it belongs to another organization.
    """
    theirs = load_node(store.connection, ORG_KEY)
    if theirs not in {None, org}:
        raise StoreError(
            f"{store.path} is the store of {theirs}, this node is {org}'s",
            hint="nothing was changed; put the right store.db and config.toml together",
            reason="FOREIGN",
        )


def pin_org(transaction: Transaction, root: PinnedRoot) -> None:
    """Pin the root of an organization.

    Raises:
        CommandError: another root is pinned for that organization.
    """
    held = load_root(transaction.connection, root.document.org)
    if held is not None:
        if held.hash != root.hash:
            raise CommandError(
                f"another root is pinned for {root.document.org}: {held.short_fingerprint}",
                hint="ask them which one is theirs; never trust a file alone to replace it",
            )
        return
    transaction.connection.execute(
        "INSERT INTO org (name, root, pinned_ms) VALUES (?, ?, ?)",
        (root.document.org, wire.encode_envelope(root.envelope), transaction.now_ms),
    )


def load_root(connection: sqlite3.Connection, org: str) -> PinnedRoot | None:
    """Return the pinned root of an organization, or None; what is stored now is verified.

    Raises:
        DamageError: it no longer verifies.
    """
    row = connection.execute("SELECT root FROM org WHERE name = ?", (org,)).fetchone()
    if row is None:
        return None
    with as_damage(f"the org root of {org}"):
        root = _open_root(row[0])
        if root.document.org != org:
            raise MalformedError(f"it is the root of {root.document.org}")
        return root


@lru_cache(maxsize=64)
def _open_root(data: bytes) -> PinnedRoot:
    """Verify a root, once for the same bytes, since it is needed all the time."""
    return wire.open_org_root(data)


def store_peer(
    transaction: Transaction,
    org: OrgName,
    *,
    address: str,
    certificate: str,
    certificate_sha256: bytes,
) -> None:
    """Add a peer whose organization is pinned, or give it another address or certificate."""
    transaction.connection.execute(
        """INSERT INTO peer (org, address, certificate, certificate_sha256, added_ms)
        SELECT org, ?, ?, ?, ? FROM org WHERE name = ?
        ON CONFLICT (org) DO UPDATE SET address = excluded.address,
            certificate = excluded.certificate, certificate_sha256 = excluded.certificate_sha256""",
        (address, certificate, certificate_sha256, transaction.now_ms, org),
    )


def remove_peer(transaction: Transaction, org: str) -> None:
    """Forget a peer's address and certificate. Its organization's root stays pinned."""
    transaction.connection.execute(
        "DELETE FROM peer WHERE org = (SELECT org FROM org WHERE name = ?)", (org,)
    )


_PEER = (
    "SELECT org.name, peer.address, peer.certificate, peer.certificate_sha256, peer.added_ms "
    "FROM peer JOIN org USING (org)"
)


def iter_peers(connection: sqlite3.Connection) -> Iterator[Peer]:
    """Yield every peer, by name."""
    for row in connection.execute(f"{_PEER} ORDER BY org.name"):
        yield _peer(row)


def load_peer(connection: sqlite3.Connection, org: str) -> Peer | None:
    """Return one peer, or None."""
    row = connection.execute(f"{_PEER} WHERE org.name = ?", (org,)).fetchone()
    return None if row is None else _peer(row)


def _peer(row: tuple[str, str, str, bytes, int]) -> Peer:
    org, address, certificate, certificate_sha256, added_ms = row
    return Peer(
        org=OrgName(org),
        address=address,
        certificate=certificate,
        certificate_sha256=certificate_sha256,
        added_ms=added_ms,
    )


def own_root(store: Store) -> PinnedRoot:
    """Return the org root of this node's own organization.

    Raises:
        CommandError: the store was never made a node's.
    """
    org = load_node(store.connection, ORG_KEY)
    root = None if org is None else load_root(store.connection, org)
    if root is None:
        raise CommandError("this store has no organization", hint="run 'hashfed init' again")
    return root
