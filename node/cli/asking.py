"""What commands need to ask peers: what this node shows to them, and what recovering needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

from federation.names import OrgName, Origin
from federation.recovery import Answer
from node import administering, certificate, guarding, logs
from node.cli.context import Context
from node.config import LogLevel
from node.store import registry
from node.store.connection import Store
from node.sync import asking
from node.sync.client import TlsIdentity
from node.sync.recovering import RecoveryTools
from node.sync.writer import Writer


def tls_identity(context: Context) -> TlsIdentity:
    """Return what this node shows to peers, of which its org root says that it is this node's."""
    with context.reader() as store:
        return _checked_identity(context, store)


def _checked_identity(context: Context, store: Store) -> TlsIdentity:
    identity = unchecked_identity(context)
    fingerprint = certificate.certificate_sha256(identity.certificate.decode())
    administering.require_certificate(store, fingerprint)
    return identity


def unchecked_identity(context: Context) -> TlsIdentity:
    """Return what this node shows to peers while its store cannot be read: they know what is so."""
    key, pem = certificate.load_pair(context.home.tls_key, context.home.tls_certificate)
    return TlsIdentity(certificate=pem.encode(), key=key.encode())


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


def ask_times(context: Context, store: Store) -> dict[OrgName, int]:
    """Ask all peers what their clocks say."""
    config = context.config()
    logs.configure(LogLevel.ERROR, config.log.format)
    peers = list(registry.iter_peers(store.connection))
    seconds = config.publish.ask_seconds
    return asyncio.run(asking.ask_times(peers, _checked_identity(context, store), seconds=seconds))


@contextmanager
def asking_peers(
    context: Context, store: Store, origin: Origin
) -> Iterator[Callable[[], Sequence[Answer]]]:
    """Ask all peers what they hold of a list of ours, while the block does something else.

    Args:
        context: the node.
        store: its store, open for writing.
        origin: the list.

    Yields:
        A function that waits for the answers, puts a newer charter of the list in force if a peer
        has one, and returns the answers.
    """
    config = context.config()
    logs.configure(LogLevel.ERROR, config.log.format)
    peers = list(registry.iter_peers(store.connection))
    root = administering.own_root(store)
    identity = _checked_identity(context, store)
    seconds = config.publish.ask_seconds
    with _loop_aside() as loop:
        question = asyncio.run_coroutine_threadsafe(
            asking.ask_peers(peers, [origin], root, identity, seconds=seconds), loop
        )

        def answers() -> Sequence[Answer]:
            found = question.result()
            for name, envelope in found.charters.items():
                guarding.take_charter(store, origin=name, envelope=envelope)
            return found.answers[origin]

        yield answers


@contextmanager
def _loop_aside() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in another thread for the time of a block; end what is left in it then.

    The block runs in the thread that called, which is the one that Ctrl-C interrupts.
    """
    loop = asyncio.new_event_loop()
    # A second Ctrl-C ends the process also where a connection takes its time to be closed.
    thread = Thread(target=loop.run_forever, name="asking", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
