"""What commands do before they sign for a list of ours: ask the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from federation.names import Origin
from federation.recovery import PeerReport
from node.cli.context import Context
from node.identity import keys
from node.publish import permit
from node.publish.permit import Permit
from node.publish.sign import PublishingKeys
from node.store.connection import Store
from node.system import locks

_WAIT_SECONDS: Final = 2.0
"""How long a command waits for another one that signs."""


def load_keys(context: Context) -> PublishingKeys:
    """Return the keys that sign for our lists."""
    return PublishingKeys(
        publisher=keys.load_signer(context.home.publisher_key),
        log=keys.load_signer(context.home.log_key),
    )


@contextmanager
def publish_lock(context: Context, what: str) -> Iterator[None]:
    """Hold the lock on publishing: one process of this machine signs for a store at a time."""
    # `serve` takes it for a moment when it finishes the work of a killed publisher.
    with locks.hold(context.home.lock_file("publish"), what, wait_seconds=_WAIT_SECONDS):
        yield


def obtain_permit(
    context: Context,
    store: Store,
    origin: Origin,
    *,
    meanwhile: Callable[[], None] = lambda: None,
) -> Permit:
    """Ask the peers, and return the permit to sign for a list; the caller holds the lock.

    Args:
        context: the node.
        store: its store, open for writing.
        origin: the list.
        meanwhile: work to do while the peers answer, before it is known whether the list may be
            signed for. It may be called in another thread.

    Raises:
        RecoveringError: the list may not be signed for.
    """

    def obtain(ask: Callable[[], Sequence[PeerReport]]) -> Permit:
        def answers() -> Sequence[PeerReport]:
            meanwhile()
            return ask()

        return permit.obtain_permit(
            store,
            context.mark(),
            origin,
            answers,
            clock=context.clock,
            needed=context.config().publish.peers_needed.count,
        )

    if not permit.unasked(store):
        return obtain(tuple)
    from node.cli.network import while_asking_peers  # noqa: PLC0415  # the network: too much alone

    return while_asking_peers(context, store, origin, obtain)
