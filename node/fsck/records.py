"""What is recorded beside the lists: organizations, peers, versions, states, and the tables.

Compared with what was signed where something was, and else with each other. Nobody signs when a
delta arrived, which version it came in with, when a version was committed, and where a peer is
called: those are taken as they stand, as long as they are in an order that can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

from federation.errors import FederationError
from federation.follow import FollowState
from federation.names import Origin
from node.errors import ConfigError, DamageError
from node.identity.certificate import certificate_sha256
from node.store import lists, migrations, orgs
from node.store.damage import Damage, DamageKind
from node.store.schema import NUMBERS, POSITION_BITS, Schema
from node.store.sqlite import sqlite3

_TOKEN_BYTES: Final = 16
_SCHEMA: Final = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master "
    "WHERE name NOT LIKE 'sqlite%' AND name NOT LIKE '_sqlite%' ORDER BY type, name"
)


def _damage(
    kind: DamageKind, message: str, origin: str = "", position: int | None = None
) -> Damage:
    return Damage(kind=kind, origin=origin, position=position, message=message)


def check_schema(connection: sqlite3.Connection, schema: Schema) -> Iterator[Damage]:
    """Compare the tables with those that the steps of a schema make."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        migrations.migrate(made, schema)
        expected = dict.fromkeys(made.execute(_SCHEMA).fetchall())
    found = dict.fromkeys(connection.execute(_SCHEMA).fetchall())
    for kind, name, *_ in expected.keys() ^ found.keys():
        yield _damage(DamageKind.SCHEMA, f"schema: {kind} {name} is not as this program makes it")


def _check_numbers(connection: sqlite3.Connection) -> Iterator[Damage]:
    found = connection.execute("SELECT count(*), min(n), max(n) FROM number").fetchone()
    if found != (NUMBERS, 0, NUMBERS - 1):
        yield _damage(DamageKind.RECORD, f"the table of numbers is not 0 to {NUMBERS - 1}")


def _check_node(connection: sqlite3.Connection) -> Iterator[Damage]:
    org = orgs.load_node(connection, "org")
    pinned = connection.execute("SELECT 1 FROM org WHERE name = ?", (org,)).fetchone()
    if org is None or pinned is None:
        yield _damage(DamageKind.RECORD, "whose store this is cannot be told")
    token = orgs.load_node(connection, "incarnation") or ""
    try:
        whole = len(bytes.fromhex(token)) == _TOKEN_BYTES
    except ValueError:
        whole = False
    if not whole:
        yield _damage(DamageKind.RECORD, "the token of the store is not one")


def _check_orgs(connection: sqlite3.Connection) -> Iterator[Damage]:
    # Those with lists are looked at with their lists.
    for (name,) in connection.execute(
        "SELECT name FROM org WHERE org NOT IN (SELECT org FROM list) ORDER BY name"
    ).fetchall():
        try:
            orgs.load_root(connection, name)
        except DamageError as error:
            yield _damage(DamageKind.ROOT, str(error))


def _check_peers(connection: sqlite3.Connection) -> Iterator[Damage]:
    for (number,) in connection.execute("SELECT org FROM peer ORDER BY org").fetchall():
        row = connection.execute(
            "SELECT o.name, p.certificate, p.certificate_sha256 "
            "FROM peer AS p JOIN org AS o USING (org) WHERE org = ?",
            (number,),
        ).fetchone()
        if row is None:
            yield _damage(DamageKind.PEER, f"peer {number}: its organization is missing")
            continue
        org, certificate, digest = row
        try:
            found = certificate_sha256(certificate)
        except ConfigError as error:
            yield _damage(DamageKind.PEER, f"peer {org}: its certificate: {error}")
            continue
        if found != digest:
            yield _damage(DamageKind.PEER, f"peer {org}: another certificate than is recorded")
        try:
            root = orgs.load_root(connection, org)
        except DamageError:
            # It is named by itself.
            continue
        allowed = () if root is None else root.document.tls_certificates
        if allowed and found not in allowed:
            yield _damage(
                DamageKind.PEER, f"peer {org}: a certificate that its organization does not name"
            )


def _check_versions(connection: sqlite3.Connection) -> Iterator[Damage]:
    rows, least, newest = connection.execute(
        "SELECT count(*), coalesce(min(version), 1), coalesce(max(version), 0) FROM version"
    ).fetchone()
    if (rows, least) != (newest, 1):
        yield _damage(DamageKind.RECORD, f"versions: got {rows}, the newest is {newest}")
    (backwards,) = connection.execute(
        "SELECT count(*) FROM (SELECT committed_ms < lag(committed_ms) OVER (ORDER BY version) "
        "AS earlier FROM version) WHERE earlier"
    ).fetchone()
    if backwards:
        yield _damage(DamageKind.RECORD, f"versions: {backwards} are earlier than the one before")


def _check_lists(connection: sqlite3.Connection) -> Iterator[Damage]:
    org = orgs.load_node(connection, "org")
    states = {str(state) for state in FollowState}
    for number, origin in list(lists.iter_origins(connection)):
        try:
            owner = Origin.parse(origin).org
        except FederationError as error:
            yield _damage(DamageKind.RECORD, f"the name of a list: {error}", origin)
            continue
        own, size, via = connection.execute(
            "SELECT own, size, via FROM list WHERE list = ?", (number,)
        ).fetchone()
        if bool(own) is not (owner == org) or own not in (0, 1) or (own and via is not None):
            yield _damage(DamageKind.RECORD, "whether the list is our own is not so", origin)
        state = connection.execute(
            "SELECT state FROM follow_state WHERE list = ?", (number,)
        ).fetchone()
        if state is None or state[0] not in states:
            yield _damage(DamageKind.RECORD, "how following the list goes is not known", origin)
        released = connection.execute(
            "SELECT size FROM released WHERE list = ?", (number,)
        ).fetchone()
        if released is not None and not (own and 0 <= released[0] <= size):
            yield _damage(
                DamageKind.RECORD, f"{released[0]} leaves are released, {size} are here", origin
            )
        yield from _check_arrivals(connection, number, origin)


def _check_arrivals(connection: sqlite3.Connection, number: int, origin: str) -> Iterator[Damage]:
    """Leaves come in ascending versions, and in none that was never committed."""
    (disordered,) = connection.execute(
        """SELECT count(*) FROM (
            SELECT version, lag(version, 1, 0) OVER (ORDER BY id) AS earlier FROM delta
            WHERE id >= ?1 << ?2 AND id < (?1 + 1) << ?2
        ) WHERE version < earlier OR version > (SELECT max(version) FROM version)""",
        (number, POSITION_BITS),
    ).fetchone()
    if disordered:
        yield _damage(
            DamageKind.RECORD, f"{disordered} leaves are noted with versions that cannot be", origin
        )


def _check_references(connection: sqlite3.Connection) -> Iterator[Damage]:
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchmany(20):
        yield _damage(DamageKind.RECORD, f"row {row} of {table} names a {parent} that is not there")


CHECKS: Final[tuple[Callable[[sqlite3.Connection], Iterator[Damage]], ...]] = (
    _check_numbers,
    _check_node,
    _check_orgs,
    _check_peers,
    _check_versions,
    _check_lists,
    _check_references,
)
"""Each yields what is wrong with one thing that is recorded beside the lists."""
