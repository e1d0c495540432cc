"""Brings what is recorded beside the lists from a damaged store into a new one.

What was signed is verified; what nobody signs is taken as it stands. A single flipped bit in bytes
that no peer can give back (pinned keys, certificates, names) is found by trying each: what verifies
again is what was signed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from federation import wire
from federation.errors import FederationError
from federation.names import OrgName
from federation.trust.orgroot import PinnedRoot
from node.errors import ConfigError
from node.identity.certificate import certificate_sha256
from node.repair.bitflips import mend, mend_text
from node.repair.salvage import Wreck, as_bytes, as_int, as_text
from node.store.connection import Store
from node.store.sqlite import sqlite3

_TOKEN_DIGITS: Final = 32

_MOST_LOST: Final = 1 << 20
"""Versions that can be lost between two that are not: a number beyond that is damaged."""


def copy_records(wreck: Wreck, store: Store, org: OrgName) -> None:
    """Copy everything that is not of one list: the node, organizations, peers, versions.

    Args:
        wreck: the damaged store.
        store: the new one.
        org: whose node it is.

    Raises:
        StoreError: the new store could not be written.
    """
    with store.update_status() as connection:
        _copy_node(wreck, connection, org)
        _copy_orgs(wreck, connection)
        _copy_peers(wreck, connection)
        _copy_versions(wreck, connection)


def _copy_node(wreck: Wreck, connection: sqlite3.Connection, org: OrgName) -> None:
    for key, value in wreck.rows("node", ("key", "value")):
        if key == "org":
            value = org  # noqa: PLW2901  # it never changes
        if key == "incarnation" and not _is_token(as_text(value)):
            # The new store's own: then our lists are signed for when peers have been asked.
            continue
        if key in ("org", "incarnation"):
            connection.execute(
                "INSERT INTO node (key, value) VALUES (?1, ?2) "
                "ON CONFLICT (key) DO UPDATE SET value = ?2",
                (key, value),
            )
    connection.execute("INSERT OR IGNORE INTO node (key, value) VALUES ('org', ?)", (org,))


def _is_token(text: str) -> bool:
    return len(text) == _TOKEN_DIGITS and all(letter in "0123456789abcdef" for letter in text)


def _copy_orgs(wreck: Wreck, connection: sqlite3.Connection) -> None:
    for number, name, root, pinned_ms in wreck.rows("org", ("org", "name", "root", "pinned_ms")):
        data, said = as_bytes(root), as_text(name)
        mended = mend(data, lambda tried, said=said: _opens(tried, said))  # type: ignore[misc]
        if mended is None:
            # Perhaps the name alone is damaged.
            opened = _open(data)
            said = said if opened is None else opened.document.org
        else:
            data = mended
        with suppress(sqlite3.IntegrityError):
            connection.execute(
                "INSERT INTO org (org, name, root, pinned_ms) VALUES (?, ?, ?, ?)",
                (number, said, data, as_int(pinned_ms)),
            )


def _open(data: bytes) -> PinnedRoot | None:
    try:
        return wire.open_org_root(data)
    except FederationError:
        return None


def _opens(data: bytes, name: str) -> bool:
    root = _open(data)
    return root is not None and root.document.org == name


def _copy_peers(wreck: Wreck, connection: sqlite3.Connection) -> None:
    for number, address, certificate, digest, added_ms in wreck.rows(
        "peer", ("org", "address", "certificate", "certificate_sha256", "added_ms")
    ):
        row = connection.execute("SELECT root FROM org WHERE org = ?", (number,)).fetchone()
        root = None if row is None else _open(row[0])
        allowed = set() if root is None else set(root.document.tls_certificates)
        # A document of keys that names no certificate leaves what was recorded with it.
        allowed = allowed or {as_bytes(digest)}
        pem = mend_text(as_text(certificate), lambda tried: _digest(tried) in allowed)  # noqa: B023
        with suppress(sqlite3.IntegrityError):
            connection.execute(
                "INSERT INTO peer (org, address, certificate, certificate_sha256, added_ms) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    number,
                    as_text(address),
                    as_text(certificate) if pem is None else pem,
                    as_bytes(digest) if pem is None else _digest(pem),
                    as_int(added_ms),
                ),
            )


def _digest(pem: str) -> bytes:
    try:
        return certificate_sha256(pem)
    except (ConfigError, ValueError):
        return b""


def _copy_versions(wreck: Wreck, connection: sqlite3.Connection) -> None:
    """Copy the versions; one that was lost is noted as such, and times never decrease."""
    earlier = newest = known = 0
    for version, committed_ms, kind, detail in wreck.rows(
        "version", ("version", "committed_ms", "kind", "detail")
    ):
        number, now_ms = as_int(version), as_int(committed_ms)
        if not known < number <= known + _MOST_LOST:
            continue
        for lost in range(known + 1, number):
            _put_version(connection, lost, newest, "lost", "")
        if now_ms >= newest:
            earlier, newest = newest, now_ms
        elif now_ms >= earlier:
            # The one before is the one that is not in order.
            connection.execute(
                "UPDATE version SET committed_ms = ? WHERE version = ?", (earlier, number - 1)
            )
            newest = now_ms
        else:
            earlier = newest
        _put_version(connection, number, newest, as_text(kind), as_text(detail))
        known = number


def _put_version(
    connection: sqlite3.Connection, version: int, now_ms: int, kind: str, detail: str
) -> None:
    connection.execute(
        "INSERT INTO version (version, committed_ms, kind, detail) VALUES (?, ?, ?, ?)",
        (version, now_ms, kind, detail),
    )
