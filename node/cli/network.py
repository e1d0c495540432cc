"""What commands need to ask peers: this node's identity, and the tools for recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from federation.names import OrgName, Origin
from federation.recovery import PeerReport
from node.admin import peers as admin_peers
from node.cli.context import Context
from node.config import LogLevel
from node.identity import certificate
from node.publish import permit
from node.store import orgs
from node.store.connection import Store
from node.sync import ask as sync_ask
from node.sync.client import TlsIdentity
from node.sync.recover import RecoveryTools
from node.sync.writer import Writer
from node.telemetry import logs

_T = TypeVar("_T")


def tls_identity(context: Context) -> TlsIdentity:
    """Return what this node shows to peers, checked to be what its org root names."""
    with context.reader() as store:
        return _checked_identity(context, store)


def _checked_identity(context: Context, store: Store) -> TlsIdentity:
    identity = unchecked_identity(context)
    fingerprint = certificate.certificate_sha256(identity.certificate.decode())
    admin_peers.require_certificate(store, fingerprint)
    return identity


def unchecked_identity(context: Context) -> TlsIdentity:
    """Return what this node shows to peers, unchecked, for when its store cannot be read.

    Peers check it anyway.
    """
    key, pem = certificate.load_pair(context.home.tls_key, context.home.tls_certificate)
    return TlsIdentity(certificate=pem.encode(), key=key.encode())


@contextmanager
def recovery_tools(context: Context) -> Iterator[RecoveryTools]:
    """Make the tools for asking peers about our own lists."""
    config = context.config()
    # An error says what the peers did; logging it is for `serve`.
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


def ask_times(context: Context, store: Store) -> dict[OrgName, int]:
    """Ask all peers for the time."""
    config = context.config()
    logs.configure(LogLevel.ERROR, config.log.format)
    peers = list(orgs.iter_peers(store.connection))
    seconds = config.publish.ask_seconds
    return asyncio.run(
        sync_ask.ask_times(peers, _checked_identity(context, store), seconds=seconds)
    )


def while_asking_peers(
    context: Context,
    store: Store,
    origin: Origin,
    work: Callable[[Callable[[], Sequence[PeerReport]]], _T],
) -> _T:
    """Do some work while all peers are asked what they hold of a list of ours.

    Args:
        context: the node.
        store: its store, open for writing.
        origin: the list.
        work: the work. It runs in another thread, so that this one listens for Ctrl-C. It gets a
            function that waits for the answers, puts a newer charter of the list in force if a
            peer has one, and returns the answers.

    Returns:
        What `work` returns.
    """
    config = context.config()
    logs.configure(LogLevel.ERROR, config.log.format)
    peers = list(orgs.iter_peers(store.connection))
    root = orgs.own_root(store)
    identity = _checked_identity(context, store)

    async def ask() -> _T:
        loop = asyncio.get_running_loop()
        question = loop.create_task(
            sync_ask.ask_peers(peers, [origin], root, identity, seconds=config.publish.ask_seconds)
        )

        async def wait() -> sync_ask.Found:
            return await question

        def answers() -> Sequence[PeerReport]:
            found = asyncio.run_coroutine_threadsafe(wait(), loop).result()
            for name, envelope in found.charters.items():
                permit.take_charter(store, origin=name, envelope=envelope)
            return found.answers[origin]

        return await asyncio.to_thread(work, answers)

    return asyncio.run(ask())
