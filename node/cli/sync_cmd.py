"""Commands that call peers: sync, and what a peer offers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final

import click

from federation.entry import Operation
from federation.names import parse_org
from node.admin import lists as admin_lists
from node.admin import peers
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.cli.network import tls_identity
from node.cli.progress import progress
from node.config import LogLevel
from node.errors import NodeError
from node.ingest import checks
from node.store import runs
from node.store.lists import ListRecord
from node.sync import fetch_delta
from node.sync.client import OfferedList, fetch_logs, open_channel
from node.sync.intake import Progress
from node.sync.scheduler import sync_once
from node.sync.session import ListResult, Tools
from node.sync.writer import Writer
from node.system import wake
from node.telemetry import logs

EXIT_PARTLY = 3

_BEHIND_SECONDS: Final = 1.0
"""How long a `sync` merges the index, and checks ops trees, after it has caught up. The next one
continues from there."""


@click.command("sync")
@click.argument("lists", metavar="[ORG/LIST]...", nargs=-1)
@json_option
@pass_context
def sync(context: Context, lists: tuple[str, ...]) -> None:
    """Fetch, verify and merge, once, what peers have of the lists followed here.

    All lists are fetched if none is named. Exit code: 0 when every list is current, 3 when only
    some are, else that of the first failure.
    """
    config = context.config()
    # Errors are reported list by list; logging them is for `serve`.
    logs.configure(LogLevel.ERROR, config.log.format)
    with context.store() as store:
        wanted = [admin_lists.find_list(store, name).origin for name in lists] or None
    writer = Writer(context.home.store, context.clock)
    started = time.monotonic()
    with progress("syncing", quiet=context.quiet) as bar:
        heads: dict[object, tuple[int, int]] = {}

        def report(at: Progress) -> None:
            arriving = (at.buckets, at.buckets_total)
            heads[at.origin] = arriving if at.buckets_total else (at.size, at.head)
            done, total = (sum(column) for column in zip(*heads.values(), strict=True))
            bar.update(done, total, str(at.origin))

        tools = Tools(
            writer=writer,
            identity=tls_identity(context),
            clock=context.clock,
            idle_timeout_seconds=config.sync.idle_timeout_seconds,
            interval_seconds=config.sync.interval_seconds,
            deadline_seconds=config.sync.deadline_seconds,
            on_progress=report,
            on_accepted=lambda: wake.notify(context.home),
        )
        try:
            results = asyncio.run(sync_once(tools, wanted))
        finally:
            writer.close()
    seconds = time.monotonic() - started
    with context.store() as store:
        runs.merge_behind(store, _BEHIND_SECONDS)
        checks.check_behind(store, _BEHIND_SECONDS, clock=context.clock)
    _report(context, results, seconds)
    failed = [result.error for result in results if result.error is not None]
    if failed:
        _explain(context, results)
        partly = len(failed) < len(results)
        click.get_current_context().exit(EXIT_PARTLY if partly else failed[0].exit_code)


def _report(context: Context, results: list[ListResult], seconds: float) -> None:
    if context.as_json:
        output.emit_json(
            {
                "seconds": round(seconds, 3),
                "lists": [
                    {
                        "list": str(result.origin),
                        "via": result.via,
                        "from": result.before,
                        "to": result.after,
                        "peer_position": result.head,
                        "ops": result.ops,
                        "bytes": result.bytes,
                        "bootstrap": _bootstrap(result),
                        "snapshot_position": result.joined,
                        "state": result.state,
                        "reason": result.reason,
                        "error": None if result.error is None else str(result.error),
                    }
                    for result in results
                ],
            }
        )
        return
    if not results:
        context.remark("no lists are followed here: run 'hashfed follow ORG/LIST' first")
    for result in results:
        click.echo(
            f"{result.origin} via {result.via or 'nobody'}: {result.state}, "
            f"position {result.before} to {result.after}, {_arrived(result)}, "
            f"{result.bytes} bytes, {seconds:.2f} s"
        )


def _bootstrap(result: ListResult) -> str | None:
    """Return how a new list came; None if it was here before, or did not come."""
    if result.before or not result.after:
        return None
    return "deltas" if result.joined is None else "snapshot"


def _arrived(result: ListResult) -> str:
    if result.joined is None:
        return f"{result.ops} operations"
    return f"a snapshot at position {result.joined}, {result.ops} entries and operations"


def _explain(context: Context, results: list[ListResult]) -> None:
    for result in results:
        if result.error is not None and not context.as_json:
            output.emit_error(
                result.error,
                reason=result.reason,
                hint=result.error.hint,
                exit_code=result.error.exit_code,
                as_json=False,
            )


def fetch_deltas(
    context: Context,
    record: ListRecord,
    wanted: Mapping[int, Sequence[tuple[int, Operation]]],
) -> None:
    """Fetch deltas that a snapshot skipped (`node.sync.fetch_delta`)."""
    with context.store() as store:
        asyncio.run(
            fetch_delta.fetch_deltas(
                store, record, wanted, tls_identity(context), clock=context.clock
            )
        )


@click.command("offers")
@click.argument("org", metavar="ORG")
@json_option
@pass_context
def offers(context: Context, org: str) -> None:
    """Ask a peer which of its lists this node may follow."""
    with context.reader() as store:
        peer = peers.load_peer(store, parse_org(org))

    async def ask() -> tuple[OfferedList, ...]:
        channel = open_channel(peer, tls_identity(context))
        try:
            return (await fetch_logs(channel, peer.org)).lists
        finally:
            await channel.close()

    found = asyncio.run(ask())
    if not found:
        raise NodeError(
            f"{peer.org} offers no list to this node",
            hint="ask them to add your organization to a list's audience",
            reason="UNAVAILABLE",
        )
    for offer in found:
        if context.as_json:
            output.emit_json({"list": offer.origin, "via": peer.org})
        else:
            click.echo(output.safe(offer.origin))


COMMANDS = (sync, offers)
