"""Checks the records that belong to no list: organizations, peers, versions, states, tables.

They are compared with signed bytes where there are any, and otherwise with each other. Nobody signs
when and with which version a delta arrived, when a version was committed, and the address of a
peer. These are accepted as they are, as long as their order is possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from federation.errors import FederationError
from federation.follow import FollowState
from federation.names import Origin
from node.errors import ConfigError, DamageError
from node.identity.certificate import certificate_sha256
from node.store import consistency, lists, orgs
from node.store.damage import Damage, DamageKind
from node.store.schema import NUMBERS, Schema
from node.store.sqlite import sqlite3

_TOKEN_BYTES: Final = 16


def _damage(
    kind: DamageKind, message: str, origin: str = "", position: int | None = None
) -> Damage:
    return Damage(kind=kind, origin=origin, position=position, message=message)


def check_schema(connection: sqlite3.Connection, schema: Schema) -> Iterator[Damage]:
    """Compare the tables with those that the steps of a schema make."""
    for kind, name in consistency.iter_schema_differences(connection, schema):
        yield _damage(
            DamageKind.SCHEMA, f"schema: {kind} {name} differs from the one that this program makes"
        )


def _check_numbers(connection: sqlite3.Connection) -> Iterator[Damage]:
    if not consistency.has_all_numbers(connection):
        yield _damage(DamageKind.RECORD, f"the table of numbers does not have 0 to {NUMBERS - 1}")


def _check_node(connection: sqlite3.Connection) -> Iterator[Damage]:
    org = orgs.load_node(connection, "org")
    if not consistency.is_pinned(connection, org):
        yield _damage(DamageKind.RECORD, "the store does not say to which organization it belongs")
    token = orgs.load_node(connection, "incarnation") or ""
    try:
        whole = len(bytes.fromhex(token)) == _TOKEN_BYTES
    except ValueError:
        whole = False
    if not whole:
        yield _damage(DamageKind.RECORD, "the token of the store is not valid")


def _check_orgs(connection: sqlite3.Connection) -> Iterator[Damage]:
    # Organizations with lists are checked with their lists.
    for name in consistency.iter_orgs_without_lists(connection):
        try:
            orgs.load_root(connection, name)
        except DamageError as error:
            yield _damage(DamageKind.ROOT, str(error))


def _check_peers(connection: sqlite3.Connection) -> Iterator[Damage]:
    for peer in consistency.iter_peers(connection):
        org = peer.org
        if org is None:
            yield _damage(DamageKind.PEER, f"peer {peer.number}: its organization is missing")
            continue
        try:
            found = certificate_sha256(peer.certificate)
        except ConfigError as error:
            yield _damage(DamageKind.PEER, f"peer {org}: its certificate: {error}")
            continue
        if found != peer.certificate_sha256:
            yield _damage(DamageKind.PEER, f"peer {org}: its certificate is not the recorded one")
        try:
            root = orgs.load_root(connection, org)
        except DamageError:
            # This is reported separately.
            continue
        allowed = () if root is None else root.document.tls_certificates
        if allowed and found not in allowed:
            yield _damage(
                DamageKind.PEER, f"peer {org}: its organization does not name its certificate"
            )


def _check_versions(connection: sqlite3.Connection) -> Iterator[Damage]:
    found = consistency.measure_versions(connection)
    if (found.rows, found.first) != (found.newest, 1):
        yield _damage(
            DamageKind.RECORD, f"versions: got {found.rows}, the newest is {found.newest}"
        )
    if found.backwards:
        yield _damage(
            DamageKind.RECORD, f"versions: {found.backwards} are earlier than the one before"
        )


def _check_lists(connection: sqlite3.Connection) -> Iterator[Damage]:
    org = orgs.load_node(connection, "org")
    states = {str(state) for state in FollowState}
    for number, origin in list(lists.iter_origins(connection)):
        try:
            owner = Origin.parse(origin).org
        except FederationError as error:
            yield _damage(DamageKind.RECORD, f"the name of a list: {error}", origin)
            continue
        row = consistency.load_list(connection, number)
        own = row.own
        if bool(own) is not (owner == org) or own not in (0, 1) or (own and row.via is not None):
            yield _damage(
                DamageKind.RECORD, "the record of whether the list is our own is wrong", origin
            )
        if row.state not in states:
            yield _damage(DamageKind.RECORD, "the state of following the list is missing", origin)
        if row.released is not None and not (own and 0 <= row.released <= row.size):
            yield _damage(
                DamageKind.RECORD,
                f"{row.released} leaves are released, {row.size} are here",
                origin,
            )
        yield from _check_arrivals(connection, number, origin)


def _check_arrivals(connection: sqlite3.Connection, number: int, origin: str) -> Iterator[Damage]:
    """Check that versions of leaves ascend and were committed."""
    disordered = consistency.count_disordered(connection, number)
    if disordered:
        yield _damage(DamageKind.RECORD, f"{disordered} leaves have impossible versions", origin)


def _check_references(connection: sqlite3.Connection) -> Iterator[Damage]:
    for table, row, parent in consistency.iter_dangling(connection):
        yield _damage(
            DamageKind.RECORD, f"row {row} of {table} refers to a missing row of {parent}"
        )


CHECKS: Final[tuple[Callable[[sqlite3.Connection], Iterator[Damage]], ...]] = (
    _check_numbers,
    _check_node,
    _check_orgs,
    _check_peers,
    _check_versions,
    _check_lists,
    _check_references,
)
"""Each yields the damage of one kind of record that belongs to no list."""
