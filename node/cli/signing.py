"""What commands do before they sign for a list of ours: they ask its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from federation.names import Origin
from federation.recovery import Answer
from node import guarding, identity, locks, logs
from node.cli.context import Context
from node.config import LogLevel
from node.guarding import Permit
from node.store.connection import Store
from node.sync.client import TlsIdentity
from node.sync.recovering import RecoveryTools, ask
from node.sync.writer import Writer

_WAIT_SECONDS: Final = 2.0
"""How long a command waits for another one that signs."""


def tls_identity(context: Context) -> TlsIdentity:
    """Return what this node shows to peers."""
    return TlsIdentity(
        certificate=identity.load_certificate(context.home.tls_certificate).encode(),
        key=identity.load_tls_key(context.home.tls_key).encode(),
    )


@contextmanager
def publish_lock(context: Context, what: str) -> Iterator[None]:
    """Hold the lock on publishing: one process of this machine signs for a store at a time."""
    # `serve` takes it for a moment when it finishes what a killed publisher has left.
    with locks.hold(context.home.lock_file("publish"), what, wait_seconds=_WAIT_SECONDS):
        yield


@contextmanager
def recovery_tools(context: Context) -> Iterator[RecoveryTools]:
    """Make what asking peers about our own lists needs."""
    config = context.config()
    # What peers do is said in the error, if there is one; the log of it is for `serve`.
    logs.configure(LogLevel.ERROR, config.log.format)
    writer = Writer(context.home.store, context.clock)
    try:
        yield RecoveryTools(
            writer=writer,
            identity=tls_identity(context),
            clock=context.clock,
            mark=context.mark(),
            lock=context.home.lock_file("publish"),
            needed=config.publish.peers_needed.count,
            ask_seconds=config.publish.ask_seconds,
            idle_timeout_seconds=config.sync.idle_timeout_seconds,
        )
    finally:
        writer.close()


def ask_peers(context: Context, origin: Origin) -> Sequence[Answer]:
    """Ask all peers what they hold of a list of ours."""
    with recovery_tools(context) as tools:
        return asyncio.run(ask(tools, [origin])).answers[origin]


def obtain_permit(context: Context, store: Store, origin: Origin) -> Permit:
    """Ask the peers, and return the permit to sign for a list; the caller holds the lock.

    Raises:
        RecoveringError: the list may not be signed for.
    """
    return guarding.obtain_permit(
        store,
        context.mark(),
        origin,
        ask_peers(context, origin),
        clock=context.clock,
        needed=context.config().publish.peers_needed.count,
    )
