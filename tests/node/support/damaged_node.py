"""A node whose store gets damaged, and peers over mutual TLS that hold the same lists."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from federation import wire
from federation.entry import Cause, Operation
from federation.trust import orgroot
from federation.trust.orgroot import PinnedRoot, Role
from node.formats.jsonl import Format
from node.identity.certificate import certificate_sha256
from node.ingest.deltas import accept, accept_charter
from node.query.export import export
from node.repair.repair import Repaired, repair
from node.store import lists, orgs
from node.store.connection import Store
from node.sync.client import TlsIdentity
from node.sync.repair_source import PeerSource
from tests.federation.worlds import (
    Publisher,
    assertion,
    fingerprint,
    make_charter,
    org_root,
    role_key,
    seal,
    seal_charter,
)
from tests.node.support.peering import Site, build_identity

MAIN = "hotline.example/main"
OTHER = "ngo.example/other"


def rooted(org: str) -> tuple[TlsIdentity, PinnedRoot]:
    """Return an identity, and keys that name its certificate."""
    identity = build_identity(org)
    digest = certificate_sha256(identity.certificate.decode())
    document = replace(org_root(org), tls_certificates=(digest,))
    envelope = seal(orgroot.MEDIA_TYPE, wire.encode_org_root(document), role_key(org, Role.ROOT))
    return identity, wire.open_org_root(wire.encode_envelope(envelope))


def make_site(folder: Path, org: str) -> Site:
    identity, root = rooted(org)
    return Site(folder, org, identity=identity, root=root)


def make_publisher(origin: str, root: PinnedRoot) -> Publisher:
    """Return a list with changes of every kind, and a snapshot among them."""
    made = Publisher(origin)
    made.root = root
    made.publish(
        *(assertion(n, fingerprint(n, "md5")) for n in range(10)), assertion(10, entry="x")
    )
    made.publish(
        Operation.retraction(assertion(0).entry, Cause.WITHDRAWN),
        Operation.purge(assertion(1).entry),
        assertion(2, labels=("B",)),
    )
    made.publish_snapshot()
    made.publish(assertion(20), Operation.retraction(assertion(3).entry, Cause.WITHDRAWN))
    made.publish(assertion(0), assertion(21, fingerprint(21, "md5")))
    return made


def take(site: Site, publisher: Publisher, via: Site) -> None:
    """Let a site follow a list by a peer, and have all of it."""
    with site.store.write("follow", str(publisher.origin)) as transaction:
        orgs.pin_org(transaction, publisher.root)
        lists.add_list(transaction, publisher.origin, via=via.org)
    envelope = seal_charter(make_charter(publisher.origin, all_peers=True))
    accept_charter(site.store, publisher.origin, wire.encode_envelope(envelope))
    for delta in publisher.log:
        taken = accept(site.store, publisher.origin, [delta], via=via.org, clock=site.clock)
        assert taken.error is None, taken.error


def exported(store: Store, origin: str) -> bytes:
    """Return the export of a list."""
    record = next(item for item in lists.iter_lists(store.connection) if str(item.origin) == origin)
    out = io.BytesIO()
    export(store, record, record.log.size, Format.JSONL, out)
    return out.getvalue()


SIGNED = {
    "org": "org, name, root, pinned_ms",
    "peer": "org, address, certificate, certificate_sha256, added_ms",
    "list": "list, org, name, own, via, charter, charter_version, frontier, size, last_leaf, "
    "last_time_ms, live_count, state_digest, span",
    "span": "span, list, start, stop, snapshot",
    "delta": "id, body_size, header, checkpoint",
    "body": "id, bytes",
    "superseded": "span, position, row, op, by_position, by_row",
    "number": "n",
    "released": "list, size",
}


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return all that a repair must give back byte for byte."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {
            table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()  # noqa: S608
            if "," in columns
            else connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()  # noqa: S608
            for table, columns in SIGNED.items()
        } | {
            "posting": connection.execute(
                "SELECT digest, t.name, kind % 2, span, position, row, op, bucket FROM posting "
                "LEFT JOIN hash_type AS t ON t.code = kind / 2 ORDER BY 1, 2, 3, 4, 5, 6"
            ).fetchall()
        }
    finally:
        connection.close()


def settle(path: Path) -> None:
    """Have all of a store in its one file."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def repair_site(site: Site) -> Repaired:
    """Repair a site's store as the command does."""
    sources: list[PeerSource] = []

    def connect(peers: object) -> PeerSource:
        sources.append(PeerSource(peers, site.identity, idle_timeout_seconds=5.0))  # type: ignore[arg-type]  # as given
        return sources[-1]

    try:
        return repair(site.home, site.org, connect, clock=site.clock)
    finally:
        for source in sources:
            source.__exit__(None, None, None)


Harm = Callable[[Path], None]


def in_sql(statement: str, *values: object) -> Harm:
    """Return harm that is done in SQL, behind the store's back."""

    def harm(path: Path) -> None:
        connection = sqlite3.connect(path)
        assert connection.execute(statement, values).rowcount > 0, statement
        connection.commit()
        connection.close()

    return harm


def flip(table: str, column: str, where: str, at: int) -> Harm:
    """Return harm that flips a bit of one value, where it lies in the file."""

    def read(path: Path) -> bytes:
        connection = sqlite3.connect(path)
        try:
            (value,) = connection.execute(
                f"SELECT {column} FROM {table} WHERE {where} LIMIT 1"  # noqa: S608
            ).fetchone()
        finally:
            connection.close()
        return value if isinstance(value, bytes) else str(value).encode()

    def harm(path: Path) -> None:
        value = read(path)
        data = bytearray(path.read_bytes())
        # What lies around it, but for what stands on another page.
        first = max(0, at - 8)
        needle = value[first : at + 8]
        start = data.find(needle)
        while start >= 0:
            data[start + at - first] ^= 1
            path.write_bytes(data)
            if read(path) != value:
                return
            # A copy that nothing leads to.
            data[start + at - first] ^= 1
            start = data.find(needle, start + 1)
        raise AssertionError(f"{table}.{column} is not in the file")

    return harm


def at_byte(offset: int, mask: int = 1) -> Harm:
    """Return harm that flips bits of one byte of the file."""

    def harm(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= mask
        path.write_bytes(data)

    return harm


def cut(pages: int) -> Harm:
    """Return harm that takes pages from the end of the file."""

    def harm(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) - pages * 4096])

    return harm


def wipe(table: str) -> Harm:
    """Return harm that writes over the first page of a table."""

    def harm(path: Path) -> None:
        connection = sqlite3.connect(path)
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
        connection.close()
        data = bytearray(path.read_bytes())
        data[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
        path.write_bytes(data)

    return harm
