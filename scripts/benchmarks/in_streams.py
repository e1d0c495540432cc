"""A conversation: holds streams of a publisher open, one for each of many organizations.

Each stream is like that of a live subscriber, with its own certificate and connection. It does not
verify or store what comes, which would take as many nodes. It checks that everything came, with the
same bytes as on every other stream, and records when.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from federation.checkpoint import read_checkpoint
from federation.follow import Cursor
from federation.names import parse_org
from node.errors import NodeError
from node.home import Home
from node.store.orgs import Peer
from node.sync.client import Delivered, Opened, TlsIdentity, fetch_logs, follow, open_channel
from scripts.benchmarks.tasks import converse

_T = TypeVar("_T")

_AT_ONCE: Final = 20
"""How many streams are opened at a time."""

_SECONDS: Final = 60.0


class Streams:
    """Streams that are open at once.

    The event loop has a thread of its own, so that streams go on between questions.
    """

    def __init__(self, invitation: str, name: str, members: list[str]) -> None:
        told = json.loads(Path(invitation).read_text())
        self._publisher = Peer(
            org=parse_org(told["org"]),
            address=told["address"],
            certificate=told["certificate"],
            certificate_sha256=bytes.fromhex(told["certificate_sha256"]),
            added_ms=0,
        )
        self._origin = f"{told['org']}/{name}"
        self._members = [Home(Path(member)) for member in members]
        # By the size of the log after a delta. Only the loop's thread uses the following fields.
        self._digests: dict[int, bytes] = {}
        self._arrivals: dict[int, list[float]] = {}
        self._open = 0
        self._failures: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def open(self) -> dict[str, object]:
        """Open all streams; return how many are open, and why the others are not."""
        self._run(self._open_all())
        return {"open": self._open, "failures": sorted(set(self._failures))}

    def arrivals(self, size: int) -> list[float]:
        """Wait until a delta has come on every stream; return when it came on each.

        Args:
            size: the size of the log after the delta.
        """
        return self._run(self._wait_for(size))

    def head(self) -> int:
        """Return the size of the log according to the publisher."""
        return self._run(self._fetch_cursor()).size

    def _run(self, what: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    async def _open_all(self) -> None:
        cursor = await self._fetch_cursor()
        slots = asyncio.Semaphore(_AT_ONCE)
        opened = []
        for member in self._members:
            done = asyncio.Event()
            self._tasks.append(asyncio.create_task(self._follow(member, cursor, slots, done)))
            opened.append(done.wait())
        async with asyncio.timeout(_SECONDS):
            await asyncio.gather(*opened)

    async def _fetch_cursor(self) -> Cursor:
        channel = open_channel(self._publisher, _identity(self._members[0]))
        try:
            offers = await fetch_logs(channel, self._publisher.org)
        finally:
            await channel.close()
        (checkpoint,) = (offer.checkpoint for offer in offers.lists if offer.origin == self._origin)
        head = read_checkpoint(checkpoint)
        return Cursor(
            origin=self._origin, size=head.size, root_hash=head.root_hash, charter_version=0
        )

    async def _follow(
        self, member: Home, cursor: Cursor, slots: asyncio.Semaphore, opened: asyncio.Event
    ) -> None:
        await slots.acquire()
        channel = open_channel(self._publisher, _identity(member))
        events = follow(
            channel, self._publisher.org, [cursor], live=True, idle_timeout_seconds=_SECONDS
        )
        try:
            async for event in events:
                now = time.perf_counter()
                if isinstance(event, Opened) and not opened.is_set():
                    self._open += 1
                    opened.set()
                    slots.release()
                if isinstance(event, Delivered):
                    self._note(event, now)
        except NodeError as error:
            self._failures.append(str(error))
        finally:
            if not opened.is_set():
                opened.set()
                slots.release()
            await channel.close()

    def _note(self, event: Delivered, now: float) -> None:
        for delta in event.deltas:
            size = read_checkpoint(delta.checkpoint).size
            digest = sha256(delta.header + delta.body + delta.checkpoint).digest()
            if self._digests.setdefault(size, digest) != digest:
                self._failures.append(f"two streams got different bytes at size {size}")
            self._arrivals.setdefault(size, []).append(now)

    async def _wait_for(self, size: int) -> list[float]:
        async with asyncio.timeout(_SECONDS):
            while len(self._arrivals.get(size, ())) < self._open:
                if self._failures:
                    raise SystemExit(f"a stream has failed: {self._failures[0]}")
                await asyncio.sleep(0.01)  # Not measured: the arrivals have their times.
        return self._arrivals[size]


def _identity(member: Home) -> TlsIdentity:
    return TlsIdentity(
        key=member.tls_key.read_bytes(), certificate=member.tls_certificate.read_bytes()
    )


if __name__ == "__main__":
    converse(Streams)
