"""A real list's history, change by change, through three nodes: every state of it, everywhere.

What each state must be is computed here from the input file, with a dictionary and `json` alone.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from federation import wire
from federation.follow import FollowState
from federation.names import OrgName, Origin, parse_org
from node.address import Address
from node.admin import lists, peers
from node.clock import SystemClock
from node.formats.jsonl import Format
from node.home import Home
from node.identity import certificate
from node.identity import create as identity_create
from node.identity.create import CreatedKeys
from node.identity.invitation import Invitation
from node.publish import permit as publish_permit
from node.publish.high_water import HighWater
from node.publish.sign import Publishing, PublishingKeys
from node.query.as_of import resolve_as_of
from node.query.export import export
from node.rpc.server import PeerServer, ServerSettings
from node.staging.file import Staging
from node.staging.import_file import import_changes
from node.store import orgs
from node.store.connection import Store
from node.sync.client import TlsIdentity
from node.sync.scheduler import Follower, sync_once
from node.sync.session import ListResult, Tools
from node.sync.writer import Writer
from node.telemetry.metrics import Metrics
from tests.node.support import peering

_REPLAY: Final = (
    Path(__file__).parents[2] / "shared" / "data" / "eset-malware-ioc" / "replay.jsonl.gz"
)
_ORIGIN: Final = Origin.parse("hotline.example/malware")

pytestmark = [
    pytest.mark.slow,
    # 376 exports of up to 5,429 entries take half a minute of one core.
    pytest.mark.timeout(300),
    pytest.mark.skipif(not _REPLAY.exists(), reason=f"the history is not at {_REPLAY}"),
]

Change = dict[str, Any]


def _entry_id(label: str, digests: dict[str, str]) -> str:
    # Not the hash alone: that list has items under two labels, which are two entries of it.
    strongest = digests.get("sha256") or digests.get("sha1") or digests["md5"]
    return f"{label}/{strongest}"


def _change_lines(change: Change) -> Iterator[str]:
    for label, digests in change["retract"]:
        line = {"op": "retract", "id": _entry_id(label, digests), "cause": "withdrawn"}
        yield json.dumps(line)
    for label, digests in change["assert"]:
        yield json.dumps(
            {
                "op": "assert",
                "id": _entry_id(label, digests),
                "fingerprints": digests,
                "labels": [label],
            }
        )


def _expected_exports(changes: list[Change]) -> Iterator[bytes]:
    """Yield what an export must be after 0, 1, 2, ... changes."""
    live: dict[bytes, bytes] = {}
    yield b""
    for change in changes:
        for label, digests in change["retract"]:
            del live[_entry_id(label, digests).encode()]
        for label, digests in change["assert"]:
            name = _entry_id(label, digests)
            fields = {
                "op": "assert",
                "id": name,
                "fingerprints": dict(sorted(digests.items())),
                "labels": [label],
            }
            line = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
            assert live.setdefault(name.encode(), line.encode() + b"\n") == line.encode() + b"\n"
        yield b"".join(live[name] for name in sorted(live))


@dataclass(kw_only=True)
class _Node:
    """One organization's node, made as `hashfed init` makes it."""

    org: OrgName
    home: Home
    keys: CreatedKeys
    store: Store
    clock: SystemClock = field(default_factory=SystemClock)
    server: PeerServer | None = None

    @classmethod
    def create(cls, folder: Path, org: str) -> _Node:
        clock = SystemClock()
        name, home, now_ms = parse_org(org), Home(folder / org), clock.now_ms()
        home.path.mkdir()
        keys = identity_create.create_keys(home, name, now_ms)
        envelope = identity_create.create_org_root(
            name,
            root=keys.root,
            publisher=keys.publisher,
            log=keys.log,
            certificate_sha256=certificate.certificate_sha256(keys.certificate),
            now_ms=now_ms,
        )
        store = Store.create(home.store, clock)
        peers.create_node(store, wire.open_org_root(envelope))
        node = cls(org=name, home=home, keys=keys, store=store)
        node.mark.create()
        return node

    @property
    def mark(self) -> HighWater:
        return HighWater(self.home.mark, self.org)

    @property
    def tls(self) -> TlsIdentity:
        key = certificate.load_tls_key(self.home.tls_key)
        return TlsIdentity(key=key.encode(), certificate=self.keys.certificate.encode())

    async def serve(self, stack: AsyncExitStack) -> None:
        settings = ServerSettings(
            store=self.home.store,
            listen=Address("127.0.0.1", 0),
            key=self.tls.key,
            certificate=self.tls.certificate,
            heartbeat_seconds=15.0,
        )
        self.server = PeerServer(settings, clock=self.clock, metrics=Metrics("test"))
        stack.push_async_callback(self.server.stop, 0.2)
        await self.server.start()

    def invite(self) -> bytes:
        address = "127.0.0.1:1" if self.server is None else str(self.server.address)
        invitation = Invitation(
            root=orgs.own_root(self.store),
            address=address,
            certificate=self.keys.certificate,
        )
        return invitation.format().encode()

    def enroll(self, other: _Node) -> None:
        invitation = Invitation.parse(other.invite(), now_ms=self.clock.now_ms())
        digest = certificate.certificate_sha256(invitation.certificate)
        assert peers.add_peer(self.store, invitation, digest)

    def _tools(self, stack: AsyncExitStack) -> Tools:
        writer = Writer(self.home.store, self.clock)
        stack.push_async_callback(asyncio.to_thread, writer.close)
        return Tools(
            writer=writer,
            identity=self.tls,
            clock=self.clock,
            idle_timeout_seconds=60.0,
            interval_seconds=1.0,
            on_accepted=self.wake,
        )

    def wake(self) -> None:
        """Let streams of subscribers look at the store, as after each commit."""
        if self.server is not None:
            self.server.wakeups.notify()

    async def follow(self, stack: AsyncExitStack) -> None:
        """Follow live, as `hashfed serve` does, until the stack is closed."""
        following = asyncio.create_task(Follower(self._tools(stack)).run())

        async def end() -> None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

        stack.push_async_callback(end)

    async def sync(self, stack: AsyncExitStack) -> list[ListResult]:
        """Fetch once, as `hashfed sync` does."""
        return await sync_once(self._tools(stack))

    @property
    def size(self) -> int:
        return lists.find_list(self.store, str(_ORIGIN)).log.size

    def export(self, as_of: str) -> bytes:
        record = lists.find_list(self.store, str(_ORIGIN))
        out = io.BytesIO()
        export(self.store, record, resolve_as_of(self.store, record, as_of), Format.JSONL, out)
        return out.getvalue()


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[[str], _Node]]:
    made: list[_Node] = []

    def make(org: str) -> _Node:
        made.append(_Node.create(tmp_path, org))
        return made[-1]

    yield make
    for node in made:
        node.store.close()


def _publish(node: _Node, change: Change) -> None:
    """Publish one change as one change set."""
    record = lists.find_list(node.store, str(_ORIGIN))
    text = "".join(f"{line}\n" for line in _change_lines(change))
    staging = Staging.open(node.home.staging_file(_ORIGIN.name))
    try:
        report = import_changes(node.store, record, staging, io.BytesIO(text.encode()))
        assert report.staged, report.errors
        keys = PublishingKeys(publisher=node.keys.publisher, log=node.keys.log)
        permit = publish_permit.obtain_permit(
            node.store, node.mark, _ORIGIN, tuple, clock=node.clock
        )
        with Publishing(node.store, staging, _ORIGIN, keys) as publishing:
            publication = publishing.sign(permit, clock=node.clock)
    finally:
        staging.close()
    assert publication.ops == len(change["assert"]) + len(change["retract"])
    assert (publication.first, publication.size) == (record.log.size, record.log.size + 1)


async def _replay(nodes: list[_Node], changes: list[Change]) -> None:
    """Publish every change at A, while B follows A and C follows B: one delta at a time."""
    a, b, c = nodes
    async with AsyncExitStack() as stack:
        for node in (a, b):
            await node.serve(stack)
        for node, other in ((a, b), (b, a), (b, c), (c, b), (c, a)):
            node.enroll(other)
        lists.create_list(
            a.store,
            _ORIGIN.name,
            lists.parse_audience(f"{b.org},{c.org}"),
            a.keys.publisher,
            now_ms=a.clock.now_ms(),
            mark=a.mark,
        )
        a.home.staging.mkdir()
        lists.follow(b.store, _ORIGIN, None)
        lists.follow(c.store, _ORIGIN, b.org)
        for node in (b, c):
            await node.follow(stack)
        for number, change in enumerate(changes, 1):
            _publish(a, change)
            a.wake()
            await peering.eventually(lambda: (b.size, c.size) == (a.size, a.size))
            assert a.size == number
        for node in (b, c):
            (result,) = await node.sync(stack)
            assert (result.state, result.error) == (FollowState.CURRENT, None)


def test_every_state_of_a_real_history_is_the_same_at_publisher_follower_and_behind_a_relay(
    make_node: Callable[[str], _Node],
) -> None:
    with gzip.open(_REPLAY, "rt", encoding="utf-8") as lines:
        changes = [json.loads(line) for line in lines]
    assert len(changes) == 125
    nodes = [make_node(org) for org in ("hotline.example", "platform.example", "ngo.example")]

    # gRPC's asyncio runtime belongs to one event loop of a process.
    peering._runner().run(_replay(nodes, changes))

    for position, expected in enumerate(_expected_exports(changes)):
        wanted = sha256(expected).hexdigest()
        for node in nodes:
            got = sha256(node.export(f"position:{position}")).hexdigest()
            assert got == wanted, f"{node.org} as of position {position}"
    assert expected.count(b"\n") == 5429
