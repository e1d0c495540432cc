"""What `serve` does by itself for our own lists, when nobody publishes any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from node.publish import permit as publish_permit
from node.store.release import released_size
from node.sync.client import TlsIdentity
from node.sync.own_lists import OwnListGuard
from node.sync.recover import RecoveryTools
from node.sync.writer import Writer
from tests.federation.worlds import assertion
from tests.node.support.own_list import OwnList


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnList]:
    made = OwnList(tmp_path / "own")
    yield made
    made.close()


async def guard_until_released(own: OwnList, folder: Path, size: int) -> None:
    """Let `serve` guard the list until so much of it is released."""
    writer = Writer(own.store.path, own.clock)
    tools = RecoveryTools(
        writer=writer,
        identity=TlsIdentity(key=b"", certificate=b""),
        clock=own.clock,
        mark=own.mark,
        lock=folder / "publish.lock",
        needed=None,
        ask_seconds=1,
        idle_timeout_seconds=1,
    )
    released = asyncio.Event()
    task = asyncio.create_task(
        OwnListGuard(tools, interval_seconds=60, on_released=released.set).run()
    )
    try:
        async with asyncio.timeout(20):
            await released.wait()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        writer.close()
    assert released_size(own.store.connection, own.record) == size


def test_what_a_publisher_killed_between_mark_and_release_has_signed_is_released(
    own: OwnList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.import_operations(assertion(1))
    own.publish()
    own.import_operations(assertion(2))
    permit = own.permit()

    def killed(*_args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(publish_permit, "release", killed)
        with pytest.raises(Killed):
            own.publish(permit)
    # Store and mark agree, so that nothing keeps the list from being signed for.
    assert released_size(own.store.connection, own.record) == 1
    asyncio.run(guard_until_released(own, tmp_path, 2))
