"""Looks for what would keep a node from working: files, keys, certificate, store, disk, peers."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from federation import limits, recovery
from federation.follow import FollowState
from federation.names import OrgName, Origin
from federation.trust.orgroot import Role
from node.admin import peers
from node.clock import Clock, format_ms
from node.config import Config, load_config
from node.errors import NodeError
from node.home import Home
from node.identity import certificate, keys
from node.publish.high_water import HighWater
from node.query import status as query_status
from node.staging.file import Staging
from node.store import lists, orgs
from node.store.connection import Store
from node.store.lists import ListRecord
from node.store.sqlite import sqlite3, sqlite_errors
from node.system import filesystem

_LOW_DISK_BYTES: Final = 1 << 30
_CERTIFICATE_WARNING_DAYS: Final = 30
_DAY_MS: Final = 24 * 60 * 60 * 1000
_CONNECT_SECONDS: Final = 3.0
_TROUBLED: Final = frozenset(
    {
        FollowState.DAMAGED,
        FollowState.RECOVERING,
        FollowState.QUARANTINED,
        FollowState.FORKED,
        FollowState.DESYNCHRONISED,
        FollowState.STALE,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        ok: whether it is as it should be.
        detail: what was found.
        hint: what to do about it, or empty.
    """

    check: str
    ok: bool
    detail: str
    hint: str = ""


AskTimes = Callable[[Store], Mapping[OrgName, int]]
"""Asks all peers what their clocks say, in milliseconds since 1970."""


def examine(
    home: Home,
    environ: Mapping[str, str],
    clock: Clock,
    *,
    ask_times: AskTimes = lambda _store: {},
) -> Iterator[Finding]:
    """Yield what each check found, the most basic first."""
    config: Config | None = None

    def read_config() -> str:
        nonlocal config
        config = load_config(home, environ, {})
        return f"{home.config}: {config.node.org} listens at {config.node.listen}"

    yield _try("configuration", read_config)
    for check, path in (
        ("publisher key", home.publisher_key),
        ("log key", home.log_key),
        ("root key", home.root_key),
    ):
        if path == home.root_key and not path.exists():
            yield Finding(check=check, ok=True, detail="kept elsewhere, as it should be")
            continue
        yield _try(check, lambda path=path: keys.load_signer(path).key_id.hex()[:16])  # type: ignore[misc]

    def read_tls_key() -> str:
        certificate.load_tls_key(home.tls_key)
        return str(home.tls_key)

    yield _try("TLS key", read_tls_key)
    yield _examine_certificate(home, clock)
    yield Finding(check="SQLite", ok=True, detail=sqlite3.sqlite_version)
    yield _examine_filesystem(home, config)
    yield _examine_disk(home)
    store: Store | None = None

    def open_store() -> str:
        nonlocal store
        store = Store.open_reader(home.store, clock)
        with sqlite_errors(store.path):
            return f"{home.store}: version {store.version}"

    yield _try("store", open_store)
    if store is None:
        return
    try:
        with sqlite_errors(store.path):
            yield from _examine_store(store, home, config)
            if next(orgs.iter_peers(store.connection), None) is not None:
                yield _examine_clock(lambda: ask_times(store), clock)
            yield from _examine_lists(store, home, config, clock)
    except NodeError as error:
        yield Finding(check="content of the store", ok=False, detail=str(error), hint=error.hint)
    finally:
        store.close()


def _try(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check=check, ok=True, detail=look())
    except NodeError as error:
        return Finding(check=check, ok=False, detail=str(error), hint=error.hint)


def _examine_certificate(home: Home, clock: Clock) -> Finding:
    check = "TLS certificate"
    try:
        ends_ms = certificate.certificate_not_after(
            certificate.load_certificate(home.tls_certificate)
        )
    except NodeError as error:
        return Finding(check=check, ok=False, detail=str(error), hint=error.hint)
    days = (ends_ms - clock.now_ms()) // _DAY_MS
    return Finding(
        check=check,
        ok=days > 0,
        detail=f"valid until {format_ms(ends_ms)}",
        hint=""
        if days >= _CERTIFICATE_WARNING_DAYS
        else "it expires soon, and this version cannot renew it: see 'keys' in docs/operate.md",
    )


def _examine_filesystem(home: Home, config: Config | None) -> Finding:
    folder = home.store.resolve().parent
    kind = filesystem.kind_of(folder)

    def look() -> str:
        filesystem.require_local(folder, "" if config is None else config.node.allow_filesystem)
        return "local" if kind is None else f"{kind}, which node.allow_filesystem allows"

    return _try("file system", look)


def _examine_disk(home: Home) -> Finding:
    try:
        free = shutil.disk_usage(home.path).free
    except OSError as error:
        return Finding(check="disk", ok=False, detail=f"{home.path}: {error.strerror}")
    return Finding(
        check="disk",
        ok=free >= _LOW_DISK_BYTES,
        detail=f"{free >> 20} MiB free",
        hint=""
        if free >= _LOW_DISK_BYTES
        else "make room: a full disk stops publishing and syncing",
    )


def _examine_clock(ask: Callable[[], Mapping[OrgName, int]], clock: Clock) -> Finding:
    check = "clock"
    try:
        times = ask()
    except NodeError as error:
        return Finding(check=check, ok=False, detail=str(error), hint=error.hint)
    if not times:
        return Finding(check=check, ok=True, detail="no peer has reported its time")
    lead_ms = clock.now_ms() - recovery.median(list(times.values()))
    seconds = abs(lead_ms) // 1000
    way = "ahead of" if lead_ms >= 0 else "behind"
    detail = f"{seconds} s {way} the peers' (the median of {', '.join(times)})"
    if abs(lead_ms) <= limits.MAX_CLOCK_SKEW_MS:
        return Finding(check=check, ok=True, detail=detail)
    wrong = "this node signs nothing" if lead_ms > 0 else "this node refuses what peers sign now"
    return Finding(check=check, ok=False, detail=detail, hint=f"set the clock: until then, {wrong}")


def _examine_store(store: Store, home: Home, config: Config | None) -> Iterator[Finding]:
    def compare_org() -> str:
        if config is not None:
            orgs.require_org(store, config.node.org)
        return orgs.own_root(store).document.org

    def compare_keys() -> str:
        root = orgs.own_root(store).document
        for role, path in ((Role.PUBLISHER, home.publisher_key), (Role.LOG, home.log_key)):
            keys.require_role(keys.load_signer(path), role, root)
        return f"publisher and log key match org root version {root.version}"

    yield _try("organization", compare_org)

    def compare_certificate() -> str:
        _, pem = certificate.load_pair(home.tls_key, home.tls_certificate)
        peers.require_certificate(store, certificate.certificate_sha256(pem))
        return "key and certificate match the org root"

    yield _try("role keys", compare_keys)
    yield _try("TLS files", compare_certificate)
    for peer in orgs.iter_peers(store.connection):
        host, _, port = peer.address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS):
                pass
        except OSError as error:
            yield Finding(
                check=f"peer {peer.org}",
                ok=False,
                detail=f"{peer.address}: {error.strerror or error}",
                hint="ask its operator whether it is running and if a firewall blocks this node",
            )
        else:
            yield Finding(check=f"peer {peer.org}", ok=True, detail=f"{peer.address} answers")


def _examine_mark(mark: HighWater, origin: Origin) -> Finding:
    check = "high-water mark"
    try:
        found = mark.load(origin)
    except NodeError as error:
        return Finding(check=check, ok=False, detail=str(error), hint=error.hint)
    if isinstance(found, recovery.Obstacle):
        return Finding(
            check=check,
            ok=False,
            detail=f"{mark.path}: {found}",
            hint="nothing was changed; if the right file is elsewhere, move it back or set "
            "publish.mark_dir; otherwise see 'recovering' in docs/operate.md",
        )
    return Finding(check=check, ok=True, detail=str(mark.path))


def _open_staged(home: Home, record: ListRecord) -> str:
    path = home.staging_file(record.origin.name)
    staging = Staging.open(path)
    try:
        staging.claim(str(record.origin))
        return f"{sum(staging.count_by_kind().values())} operations"
    finally:
        staging.close()


def _examine_lists(
    store: Store, home: Home, config: Config | None, clock: Clock
) -> Iterator[Finding]:
    try:
        org = orgs.own_root(store).document.org
    except NodeError:
        return
    elsewhere = None if config is None else config.publish.mark_dir
    mark = HighWater(elsewhere or home.mark, org)
    for record in lists.iter_lists(store.connection):
        if record.own:
            yield _examine_mark(mark, record.origin)
            break
    for record in lists.iter_lists(store.connection):
        if record.own and home.staging_file(record.origin.name).exists():
            yield _try(
                f"staged changes of {record.origin.name}", partial(_open_staged, home, record)
            )
    for status in query_status.list_statuses(store, mark, clock=clock):
        troubled = status.follow.state in _TROUBLED
        yield Finding(
            check=f"list {status.record.origin}",
            ok=not troubled,
            detail=f"{status.follow.state} at position {status.record.log.size}",
            hint=status.follow.detail if troubled else "",
        )
