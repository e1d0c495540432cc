"""Whom this node knows: itself, and the peers that may call it and that it calls."""

from __future__ import annotations

from typing import Protocol

from federation.trust.orgroot import PinnedRoot
from node.errors import CommandError, ConfigError
from node.store import orgs
from node.store.connection import Store
from node.store.orgs import Peer, own_root


class Introduction(Protocol):
    """What a node has to know about a peer: the content of a checked invitation.

    Attributes:
        root: its organization's root.
        address: where it is called, as `host:port`.
        certificate: its TLS certificate, PEM.
    """

    @property
    def root(self) -> PinnedRoot: ...  # noqa: D102  # see above
    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def certificate(self) -> str: ...  # noqa: D102


def create_node(store: Store, root: PinnedRoot) -> None:
    """Make a new store the store of an organization's node."""
    with store.write("init", root.document.org) as transaction:
        orgs.store_node(transaction, orgs.ORG_KEY, root.document.org)
        orgs.pin_org(transaction, root)


def require_certificate(store: Store, certificate_sha256: bytes) -> None:
    """Check that our org root names a TLS certificate: peers accept no other.

    Raises:
        ConfigError: it is not.
    """
    root = own_root(store).document
    if certificate_sha256 not in root.tls_certificates:
        raise ConfigError(
            f"the TLS certificate is not one of {root.org}: its org root names another",
            hint="restore this node's own keys/tls.crt and keys/tls.key from your backup",
        )


def add_peer(store: Store, invitation: Introduction, certificate_sha256: bytes) -> bool:
    """Pin an invitation's organization and take its node as a peer.

    Returns:
        Whether anything is new; False when all of it was here already.

    Raises:
        CommandError: it is this node's own, or another root is pinned for that organization.
    """
    org = invitation.root.document.org
    if org == own_root(store).document.org:
        raise CommandError(f"this is the invitation of {org} itself", hint="send it to your peers")
    held = orgs.load_peer(store.connection, org)
    pinned = orgs.load_root(store.connection, org)
    same = (
        held is not None
        and pinned is not None
        and pinned.hash == invitation.root.hash
        and (held.address, held.certificate_sha256) == (invitation.address, certificate_sha256)
    )
    if same:
        return False
    with store.write("peer", f"add {org}") as transaction:
        orgs.pin_org(transaction, invitation.root)
        orgs.store_peer(
            transaction,
            org,
            address=invitation.address,
            certificate=invitation.certificate,
            certificate_sha256=certificate_sha256,
        )
    return True


def remove_peer(store: Store, org: str) -> None:
    """Forget how to reach a peer and refuse its calls. Its root stays pinned, its lists stay here.

    Raises:
        CommandError: there is no such peer.
    """
    load_peer(store, org)
    with store.write("peer", f"remove {org}") as transaction:
        orgs.remove_peer(transaction, org)


def load_peer(store: Store, org: str) -> Peer:
    """Return a peer.

    Raises:
        CommandError: there is no such peer.
    """
    peer = orgs.load_peer(store.connection, org)
    if peer is None:
        raise CommandError(
            f"{org} is not a peer of this node",
            hint="run 'hashfed peer add FILE' with the invitation it gave you",
        )
    return peer
