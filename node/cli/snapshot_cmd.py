"""The command that makes snapshots."""

from __future__ import annotations

from typing import Final

import click

from node.admin import lists
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.cli.progress import progress
from node.cli.signing import load_keys, obtain_permit, publish_lock
from node.publish import snapshot as publish_snapshot
from node.publish.snapshot import MadeSnapshot, Making
from node.system import wake

_DONE: Final = {
    Making.SIGNED: "signed a snapshot",
    Making.REBUILT: "rebuilt the signed snapshot",
    Making.HERE: "nothing was published since the snapshot",
}


@click.command("snapshot")
@click.argument("name", metavar="LIST")
@json_option
@pass_context
def snapshot(context: Context, name: str) -> None:
    """Sign a snapshot of a list of our own, or rebuild that of a followed list to serve it.

    A node that joins the list then fetches its live entries instead of its whole history. For a
    followed list, the newest snapshot that its owner signed is rebuilt from the deltas here,
    compared with what was signed, and served from now on.
    """
    with (
        publish_lock(context, "hashfed snapshot"),
        context.store() as store,
        progress("making buckets", quiet=context.quiet) as bar,
    ):
        record = lists.find_list(store, name)
        if record.own:
            made = publish_snapshot.publish_snapshot(
                store,
                record.origin,
                load_keys(context),
                obtain_permit(context, store, record.origin),
                clock=context.clock,
                on_progress=bar.update,
            )
        else:
            made = publish_snapshot.rebuild(store, record, on_progress=bar.update)
    wake.notify(context.home)
    if context.as_json:
        output.emit_json(
            {
                "list": str(made.origin),
                "position": made.position,
                "signed": made.making is Making.SIGNED,
                "buckets": made.buckets,
                "entries": made.entries,
                "bytes": made.size_bytes,
                "root": made.root_hash.hex(),
            }
        )
    else:
        click.echo(describe(made))


def describe(made: MadeSnapshot) -> str:
    """Return what a person is told about a snapshot that was made."""
    return (
        f"{made.origin}: {_DONE[made.making]} at position {made.position}: "
        f"{made.entries} entries in {made.buckets} buckets, {made.size_bytes} bytes"
    )


COMMANDS = (snapshot,)
