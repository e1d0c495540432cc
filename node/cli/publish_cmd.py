"""The command that signs what is staged."""

from __future__ import annotations

import click

from node.admin import lists
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.cli.progress import progress
from node.cli.signing import load_keys, obtain_permit, publish_lock
from node.cli.snapshot_cmd import describe
from node.cli.stage_cmd import open_staging
from node.publish import snapshot
from node.publish.sign import Publishing
from node.system import wake


@click.command("publish")
@click.argument("name", metavar="LIST")
@json_option
@pass_context
def publish(context: Context, name: str) -> None:
    """Sign what is staged for a list: one delta, or several where one would exceed the cap."""
    with (
        publish_lock(context, "publish"),
        context.store() as store,
        progress("publishing", quiet=context.quiet) as bar,
    ):
        record = lists.find_own_list(store, name)
        keys = load_keys(context)
        with (
            open_staging(context, record, what="hashfed publish") as staging,
            Publishing(store, staging, record.origin, keys) as publishing,
        ):
            permit = obtain_permit(context, store, record.origin, meanwhile=publishing.compose)
            total = sum(staging.count_by_kind().values())

            def report(done: int) -> None:
                bar.update(done, total)
                wake.notify(context.home)

            result = publishing.sign(permit, clock=context.clock, on_progress=report)
        made = None
        record = lists.find_own_list(store, name)
        if snapshot.is_due(record, context.config().publish.snapshot_ops):
            made = snapshot.publish_snapshot(
                store, record.origin, keys, permit, clock=context.clock
            )
            wake.notify(context.home)
    deltas = result.size - result.first
    if context.as_json:
        output.emit_json(
            {
                "list": str(result.origin),
                "deltas": deltas,
                "first_position": result.first if deltas else None,
                "position": result.size,
                "ops": result.ops,
                "dropped": result.dropped,
                "live": result.live_count,
                "snapshot_position": None if made is None else made.position,
            }
        )
        return
    if not deltas:
        click.echo(f"{result.origin}: nothing to publish; {result.live_count} live entries")
        return
    click.echo(
        f"{result.origin}: signed {result.ops} operations in {deltas} "
        f"{'delta' if deltas == 1 else 'deltas'}, positions {result.first} to {result.size - 1}; "
        f"{result.live_count} live entries"
    )
    if result.dropped:
        context.remark(f"{result.dropped} staged withdrawals dropped: already withdrawn")
    if made is not None:
        click.echo(describe(made))


COMMANDS = (publish,)
