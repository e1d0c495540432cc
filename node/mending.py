"""Brings what is recorded beside the lists from a damaged store into a new one.

What was signed is verified; what nobody signs is taken as it stands. A single flipped bit in bytes
that no peer can give back (pinned keys, certificates, names) is found by trying each: what verifies
again is what was signed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from federation import wire
from federation.errors import FederationError
from federation.names import OrgName
from federation.orgroot import PinnedRoot
from node.certificate import certificate_sha256
from node.errors import ConfigError
from node.salvaging import Wreck, octets, whole, words
from node.store.connection import Store
from node.store.sqlite import sqlite3

_LONGEST_MENDED: Final = 4_096
"""Bytes in which a flipped bit is looked for: each is a signature that is tried."""

_TOKEN_DIGITS: Final = 32

_MOST_LOST: Final = 1 << 20
"""Versions that can be lost between two that are not: a number beyond that is damaged."""


def mend(data: bytes, holds: Callable[[bytes], bool]) -> bytes | None:
    """Return bytes as they were before at most one bit of them flipped, or None."""
    if holds(data):
        return data
    if len(data) > _LONGEST_MENDED:
        return None
    for at in range(len(data)):
        for bit in range(8):
            tried = bytearray(data)
            tried[at] ^= 1 << bit
            if holds(bytes(tried)):
                return bytes(tried)
    return None


def mend_text(text: str, holds: Callable[[str], bool]) -> str | None:
    """Return an ASCII text as it was before at most one bit of it flipped, or None."""
    if holds(text):
        return text
    for at, letter in enumerate(text):
        # A byte that is no text any more can have been any.
        codes = range(128) if letter == "\ufffd" else (ord(letter) ^ 1 << bit for bit in range(7))
        for code in codes:
            tried = f"{text[:at]}{chr(code)}{text[at + 1 :]}"
            if holds(tried):
                return tried
    return None


def copy_records(wreck: Wreck, store: Store, org: OrgName) -> None:
    """Copy everything that is not of one list: the node, organizations, peers, versions.

    Args:
        wreck: the damaged store.
        store: the new one.
        org: whose node it is.

    Raises:
        StoreError: the new store could not be written.
    """
    with store.note() as connection:
        _copy_node(wreck, connection, org)
        _copy_orgs(wreck, connection)
        _copy_peers(wreck, connection)
        _copy_versions(wreck, connection)


def _copy_node(wreck: Wreck, connection: sqlite3.Connection, org: OrgName) -> None:
    for key, value in wreck.rows("node", ("key", "value")):
        if key == "org":
            value = org  # noqa: PLW2901  # it never changes
        if key == "incarnation" and not _is_token(words(value)):
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
        data, said = octets(root), words(name)
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
                (number, said, data, whole(pinned_ms)),
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
        allowed = allowed or {octets(digest)}
        pem = mend_text(words(certificate), lambda tried: _digest(tried) in allowed)  # noqa: B023
        with suppress(sqlite3.IntegrityError):
            connection.execute(
                "INSERT INTO peer (org, address, certificate, certificate_sha256, added_ms) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    number,
                    words(address),
                    words(certificate) if pem is None else pem,
                    octets(digest) if pem is None else _digest(pem),
                    whole(added_ms),
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
        number, now_ms = whole(version), whole(committed_ms)
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
        _put_version(connection, number, newest, words(kind), words(detail))
        known = number


def _put_version(
    connection: sqlite3.Connection, version: int, now_ms: int, kind: str, detail: str
) -> None:
    connection.execute(
        "INSERT INTO version (version, committed_ms, kind, detail) VALUES (?, ?, ?, ?)",
        (version, now_ms, kind, detail),
    )
