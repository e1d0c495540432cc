"""Administering a node: whom it knows, which lists it owns and which it follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from federation import charter as charters
from federation import dsse, wire
from federation.charter import Audience, Charter
from federation.keys import Signer
from federation.names import OrgName, Origin, parse_list_name, parse_org
from federation.orgroot import PinnedRoot, Role
from node.errors import ConfigError, UsageError
from node.highwater import HighWater
from node.identity import require_role
from node.store import registry
from node.store.connection import Store
from node.store.registry import ListRecord, Peer
from node.store.release import load_incarnation


class Introduction(Protocol):
    """What it takes to know a peer: an invitation, once it was checked.

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
        registry.store_node(transaction, registry.ORG_KEY, root.document.org)
        registry.pin_org(transaction, root)


def own_root(store: Store) -> PinnedRoot:
    """Return the org root of this node's own organization.

    Raises:
        UsageError: the store was never made a node's.
    """
    org = registry.load_node(store.connection, registry.ORG_KEY)
    root = None if org is None else registry.load_root(store.connection, org)
    if root is None:
        raise UsageError("this store has no organization", hint="run 'hashfed init' anew")
    return root


def require_certificate(store: Store, certificate_sha256: bytes) -> None:
    """Check that a TLS certificate is one that our org root names: peers take no other.

    Raises:
        ConfigError: it is none.
    """
    root = own_root(store).document
    if certificate_sha256 not in root.tls_certificates:
        raise ConfigError(
            f"the TLS certificate is none of {root.org}: its org root names another",
            hint="put this node's own files back as keys/tls.crt and keys/tls.key",
        )


def add_peer(store: Store, invitation: Introduction, certificate_sha256: bytes) -> bool:
    """Pin an invitation's organization and take its node as a peer.

    Returns:
        Whether anything is new; False when all of it was here already.

    Raises:
        UsageError: it is this node's own, or another root is pinned for that organization.
    """
    org = invitation.root.document.org
    if org == own_root(store).document.org:
        raise UsageError(f"this is the invitation of {org} itself", hint="give it to the others")
    held = registry.load_peer(store.connection, org)
    pinned = registry.load_root(store.connection, org)
    same = (
        held is not None
        and pinned is not None
        and pinned.hash == invitation.root.hash
        and (held.address, held.certificate_sha256) == (invitation.address, certificate_sha256)
    )
    if same:
        return False
    with store.write("peer", f"add {org}") as transaction:
        registry.pin_org(transaction, invitation.root)
        registry.store_peer(
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
        UsageError: there is no such peer.
    """
    load_peer(store, org)
    with store.write("peer", f"remove {org}") as transaction:
        registry.remove_peer(transaction, org)


def load_peer(store: Store, org: str) -> Peer:
    """Return a peer.

    Raises:
        UsageError: there is no such peer.
    """
    peer = registry.load_peer(store.connection, org)
    if peer is None:
        raise UsageError(
            f"{org} is not a peer of this node",
            hint="run 'hashfed peer add FILE' with the invitation it gave you",
        )
    return peer


# --- lists ------------------------------------------------------------------------------------


def parse_audience(text: str) -> Audience:
    """Parse `all-peers`, or names of organizations with commas between; empty means nobody.

    Raises:
        MalformedError: a name is not one of an organization.
    """
    if text == "all-peers":
        return Audience(all_peers=True, orgs=())
    names = {parse_org(part.strip()) for part in text.split(",") if part.strip()}
    return Audience(all_peers=False, orgs=tuple(sorted(names)))


def create_list(
    store: Store,
    name: str,
    audience: Audience,
    publisher: Signer,
    *,
    now_ms: int,
    mark: HighWater,
) -> Origin:
    """Create a list of this node's organization and sign its charter.

    Its mark comes first: a list of that name that the store does not know, and the mark does, is
    one that the store has lost, and is not begun anew.

    Raises:
        MalformedError: not a name of a list.
        UsageError: there is such a list already.
        ConfigError: the key is not one that our org root names.
        StoreError: the high-water mark cannot be used or written.
    """
    root = own_root(store)
    require_role(publisher, Role.PUBLISHER, root.document)
    origin = Origin(root.document.org, parse_list_name(name))
    if registry.load_list(store.connection, origin) is not None:
        raise UsageError(f"{origin} is here already")
    mark.begin(origin, load_incarnation(store.connection))
    envelope = _sign_charter(
        Charter(origin=origin, version=1, created_ms=now_ms, audience=audience), publisher
    )
    with store.write("list", f"create {origin}") as transaction:
        registry.add_list(transaction, origin, via=None)
        record = registry.load_list(transaction.connection, origin)
        assert record is not None  # noqa: S101  # added two lines above
        registry.store_charter(transaction, record, envelope, 1)
    return origin


def change_audience(
    store: Store, record: ListRecord, audience: Audience, publisher: Signer, *, now_ms: int
) -> int:
    """Sign a new charter for one of our lists; return its version.

    Raises:
        ConfigError: the key is not one that our org root names.
    """
    require_role(publisher, Role.PUBLISHER, own_root(store).document)
    with store.write("charter", str(record.origin)) as transaction:
        # As it is now: two versions of one number must not be signed.
        held = registry.load_list_by_number(transaction.connection, record.list)
        version = held.charter_version + 1
        envelope = _sign_charter(
            Charter(origin=record.origin, version=version, created_ms=now_ms, audience=audience),
            publisher,
        )
        registry.store_charter(transaction, held, envelope, version)
    return version


def _sign_charter(charter: Charter, publisher: Signer) -> bytes:
    charter.check()
    payload = wire.encode_charter(charter)
    return wire.encode_envelope(dsse.sign_envelope(charters.MEDIA_TYPE, payload, [publisher]))


def follow(
    store: Store, origin: Origin, via: OrgName | None, *, all_deltas: bool | None = None
) -> ListRecord:
    """Follow a list from its owner, or from a relay; choose another peer if it is followed already.

    Args:
        store: the store.
        origin: the list.
        via: the relay; None for its owner.
        all_deltas: whether every delta is wanted, and no snapshot in their place; None leaves it as
            it is.

    Raises:
        UsageError: the owner's root is not pinned, the peer is not known, or the list is ours.
    """
    if origin.org == own_root(store).document.org:
        raise UsageError(f"{origin} is a list of this node")
    if registry.load_root(store.connection, origin.org) is None:
        raise UsageError(
            f"the root of {origin.org} is not pinned here, so nothing it signs can be verified",
            hint=f"run 'hashfed peer add FILE' with the invitation of {origin.org}",
        )
    peer = load_peer(store, via if via is not None else origin.org)
    record = registry.load_list(store.connection, origin)
    if record is not None and record.via == peer.org and all_deltas in (None, record.deltas_only):
        return record
    with store.write("follow", f"{origin} via {peer.org}") as transaction:
        if record is None:
            registry.add_list(transaction, origin, via=peer.org)
        elif record.via != peer.org:
            registry.set_via(transaction, record, peer.org)
        if all_deltas is not None:
            held = registry.load_list(transaction.connection, origin)
            assert held is not None  # noqa: S101  # added above, or there before
            registry.store_deltas_only(transaction, held, wanted=all_deltas)
    return find_list(store, str(origin))


def unfollow(store: Store, origin: Origin) -> ListRecord:
    """Stop fetching a list; what is here stays.

    Raises:
        UsageError: there is no such list here, or it is ours.
    """
    record = find_list(store, str(origin))
    if record.own:
        raise UsageError(f"{origin} is a list of this node")
    with store.write("follow", f"{origin} no longer") as transaction:
        registry.set_via(transaction, record, None)
    return record


def find_list(store: Store, text: str) -> ListRecord:
    """Return a list by `<org>/<list>`, or one of our own by its name alone.

    Raises:
        MalformedError: not a name of a list.
        UsageError: there is no such list here.
    """
    if "/" in text:
        origin = Origin.parse(text)
    else:
        origin = Origin(own_root(store).document.org, parse_list_name(text))
    record = registry.load_list(store.connection, origin)
    if record is None:
        known = ", ".join(str(held.origin) for held in registry.iter_lists(store.connection))
        raise UsageError(
            f"there is no list {origin} here",
            hint=f"lists here: {known}" if known else "run 'hashfed list create' or 'follow' first",
        )
    return record


def find_own_list(store: Store, text: str) -> ListRecord:
    """Return one of our own lists.

    Raises:
        MalformedError: not a name of a list.
        UsageError: there is no such list here, or it is another organization's.
    """
    record = find_list(store, text)
    if not record.own:
        raise UsageError(
            f"{record.origin} belongs to {record.origin.org}: only its owner changes it"
        )
    return record


def choose_list(store: Store, names: Sequence[str]) -> ListRecord:
    """Return the list that is named, or the only one there is.

    Raises:
        UsageError: none is named and there is not exactly one.
    """
    if names:
        return find_list(store, names[0])
    records = list(registry.iter_lists(store.connection))
    if len(records) == 1:
        return records[0]
    known = ", ".join(str(record.origin) for record in records)
    raise UsageError(
        "which list?", hint=f"name one of: {known}" if known else "there are no lists here yet"
    )
