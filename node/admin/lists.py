"""Administering a node: whom it knows, which lists it owns and which it follows."""

from __future__ import annotations

from collections.abc import Sequence

from federation import dsse, wire
from federation.keys import Signer
from federation.names import OrgName, Origin, parse_list_name, parse_org
from federation.trust import charter as charters
from federation.trust.charter import Audience, Charter
from federation.trust.orgroot import Role
from node.admin.peers import load_peer
from node.errors import CommandError
from node.identity.keys import require_role
from node.publish.high_water import HighWater
from node.store import lists, orgs
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.orgs import own_root
from node.store.release import load_incarnation

# --- lists ------------------------------------------------------------------------------------


def parse_audience(text: str) -> Audience:
    """Parse `all-peers`, or names of organizations with commas between; empty means nobody.

    Raises:
        MalformedError: a name is not that of an organization.
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

    Its high-water mark is written first. If the mark knows a list of that name and the store does
    not, the store has lost that list, and it must not begin from the start.

    Raises:
        MalformedError: it is not the name of a list.
        CommandError: there is such a list already.
        ConfigError: the key is not one that our org root names.
        StoreError: the high-water mark cannot be used or written.
    """
    root = own_root(store)
    require_role(publisher, Role.PUBLISHER, root.document)
    origin = Origin(root.document.org, parse_list_name(name))
    if lists.load_list(store.connection, origin) is not None:
        raise CommandError(f"this node already has the list {origin}")
    mark.begin(origin, load_incarnation(store.connection))
    envelope = _sign_charter(
        Charter(origin=origin, version=1, created_ms=now_ms, audience=audience), publisher
    )
    with store.write("list", f"create {origin}") as transaction:
        lists.add_list(transaction, origin, via=None)
        record = lists.load_list(transaction.connection, origin)
        assert record is not None  # noqa: S101  # added two lines above
        lists.store_charter(transaction, record, envelope, 1)
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
        # Read again inside the transaction: two charters of one version must not be signed.
        held = lists.load_list_by_number(transaction.connection, record.list)
        version = held.charter_version + 1
        envelope = _sign_charter(
            Charter(origin=record.origin, version=version, created_ms=now_ms, audience=audience),
            publisher,
        )
        lists.store_charter(transaction, held, envelope, version)
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
        all_deltas: whether to fetch every delta and never a snapshot instead; None changes nothing.

    Raises:
        CommandError: the owner's root is not pinned, the peer is not known, or the list is ours.
    """
    if origin.org == own_root(store).document.org:
        raise CommandError(f"{origin} is a list of this node")
    if orgs.load_root(store.connection, origin.org) is None:
        raise CommandError(
            f"the root of {origin.org} is not pinned here, so nothing it signs can be verified",
            hint=f"run 'hashfed peer add FILE' with the invitation of {origin.org}",
        )
    peer = load_peer(store, via if via is not None else origin.org)
    record = lists.load_list(store.connection, origin)
    if record is not None and record.via == peer.org and all_deltas in (None, record.deltas_only):
        return record
    with store.write("follow", f"{origin} via {peer.org}") as transaction:
        if record is None:
            lists.add_list(transaction, origin, via=peer.org)
        elif record.via != peer.org:
            lists.set_via(transaction, record, peer.org)
        if all_deltas is not None:
            held = lists.load_list(transaction.connection, origin)
            assert held is not None  # noqa: S101  # added above, or there before
            lists.store_deltas_only(transaction, held, wanted=all_deltas)
    return find_list(store, str(origin))


def unfollow(store: Store, origin: Origin) -> ListRecord:
    """Stop fetching a list; keep what is here of it.

    Raises:
        CommandError: there is no such list here, or it is ours.
    """
    record = find_list(store, str(origin))
    if record.own:
        raise CommandError(f"{origin} is a list of this node")
    with store.write("follow", f"{origin} no longer") as transaction:
        lists.set_via(transaction, record, None)
    return record


def find_list(store: Store, text: str) -> ListRecord:
    """Return a list by `<org>/<list>`, or one of our own by its name alone.

    Raises:
        MalformedError: it is not the name of a list.
        CommandError: there is no such list here.
    """
    if "/" in text:
        origin = Origin.parse(text)
    else:
        origin = Origin(own_root(store).document.org, parse_list_name(text))
    record = lists.load_list(store.connection, origin)
    if record is None:
        known = ", ".join(str(held.origin) for held in lists.iter_lists(store.connection))
        raise CommandError(
            f"there is no list {origin} here",
            hint=f"lists here: {known}" if known else "run 'hashfed list create' or 'follow' first",
        )
    return record


def find_own_list(store: Store, text: str) -> ListRecord:
    """Return one of our own lists.

    Raises:
        MalformedError: it is not the name of a list.
        CommandError: there is no such list here, or it is another organization's.
    """
    record = find_list(store, text)
    if not record.own:
        raise CommandError(
            f"{record.origin} belongs to {record.origin.org}: only its owner can change it"
        )
    return record


def choose_list(store: Store, names: Sequence[str]) -> ListRecord:
    """Return the named list, or the only one there is.

    Raises:
        CommandError: no list is named, and there is not exactly one.
    """
    if names:
        return find_list(store, names[0])
    records = list(lists.iter_lists(store.connection))
    if len(records) == 1:
        return records[0]
    known = ", ".join(str(record.origin) for record in records)
    raise CommandError(
        "which list?", hint=f"name one of: {known}" if known else "there are no lists here yet"
    )
