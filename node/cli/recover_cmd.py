"""Commands that bring a node back: recover, restore."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from node.admin import lists
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.cli.network import recovery_tools
from node.cli.progress import progress
from node.cli.signing import publish_lock
from node.errors import CommandError
from node.maintenance import restore
from node.publish import permit
from node.sync.recover import recover
from node.system import locks, wake


@click.command("recover")
@click.argument("name", metavar="LIST")
@click.option(
    "--accept-risk",
    "risk",
    metavar="WHY",
    help="Sign again even if peers are silent or the mark is lost; WHY is kept in the store.",
)
@json_option
@pass_context
def recover_command(context: Context, name: str, risk: str | None) -> None:
    """Bring a list of our own to a state in which it is safe to sign for it again.

    All peers are asked which positions of it they hold. What is missing here is fetched from their
    copies, verified and kept byte for byte. Then the high-water mark is raised. If the mark is lost
    and not all peers answer, the list stays as it is.
    """
    if risk is not None and not risk.strip():
        raise CommandError("--accept-risk: say why, for anyone who looks into it later")
    with context.reader() as store:
        origin = lists.find_own_list(store, name).origin
    with recovery_tools(context) as tools:
        recovered = asyncio.run(recover(tools, origin))
        with publish_lock(context, "hashfed recover"), context.store() as store:
            permit.obtain_permit(
                store,
                tools.mark,
                origin,
                lambda: recovered.answers,
                clock=context.clock,
                needed=tools.needed,
                risk=None if risk is None else risk.strip(),
            )
    wake.notify(context.home)
    if context.as_json:
        output.emit_json(
            {
                "list": str(origin),
                "from": recovered.before,
                "to": recovered.size,
                "sources": list(recovered.sources),
                "answered": [answer.peer for answer in recovered.answers if answer.answered],
                "silent": [answer.peer for answer in recovered.answers if not answer.answered],
                "risk": risk,
            }
        )
        return
    came = f" from {', '.join(recovered.sources)}" if recovered.sources else ""
    click.echo(
        f"{origin}: may be signed for at position {recovered.size}; "
        f"{recovered.size - recovered.before} deltas recovered{came}"
    )


@click.command("restore")
@click.argument("path", metavar="BACKUP", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@pass_context
def restore_command(context: Context, path: Path) -> None:
    """Check a backup and put it in place of the store; the old store is kept.

    Nothing is signed for our own lists until they have caught up with what was already released.
    """
    home = context.home
    org = context.config().node.org
    with (
        locks.hold(home.lock_file("serve"), "hashfed restore"),
        locks.hold(home.lock_file("publish"), "hashfed restore"),
        progress("restoring", quiet=context.quiet) as bar,
    ):
        restored = restore.restore(
            home,
            org,
            path,
            clock=context.clock,
            on_progress=lambda what, done, total: bar.update(done, total, what),
        )
    if context.as_json:
        output.emit_json(
            {
                "file": str(path),
                "store_version": restored.version,
                "positions": restored.positions,
                "recovering": list(restored.own),
                "replaced": None if restored.aside is None else str(restored.aside),
            }
        )
        return
    click.echo(f"{home.store}: store version {restored.version}, verified")
    if restored.aside is not None:
        click.echo(f"the old store is now {restored.aside}")
    if restored.own:
        context.remark(
            f"not signed for until they have caught up: {', '.join(restored.own)}\n"
            "next: 'hashfed serve' catches up by itself, or 'hashfed recover LIST'"
        )
    else:
        context.remark("next: 'hashfed serve' catches up by itself, or 'hashfed sync'")


COMMANDS = (recover_command, restore_command)
