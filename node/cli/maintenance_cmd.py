"""Commands that look after a node: backup, migrate, doctor."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.cli.progress import progress
from node.errors import NodeError
from node.maintenance import backup as maintenance_backup
from node.maintenance import doctor as maintenance_doctor
from node.maintenance import migrate as maintenance_migrate
from node.system import filesystem, locks


@click.command("backup")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@pass_context
def backup(context: Context, path: Path) -> None:
    """Copy the store to a new file, also while serving, and verify the copy. Keys are not in it."""
    with context.reader() as store, progress("copying", quiet=context.quiet) as bar:
        result = maintenance_backup.backup(
            store,
            path,
            clock=context.clock,
            on_progress=bar.update,
        )
    if context.as_json:
        output.emit_json(
            {
                "file": str(result.path),
                "bytes": result.size_bytes,
                "store_version": result.version,
                "positions": result.positions,
            }
        )
        return
    click.echo(
        f"{result.path}: {result.size_bytes} bytes, store version {result.version}, verified"
    )
    context.remark("the keys are not in it: keep a separate offline copy of the folder keys/")


@click.command("migrate")
@json_option
@pass_context
def migrate(context: Context) -> None:
    """Replace a store of an older hashfed by a migrated, verified copy; the old store is kept.

    Stop 'serve' and every other command first. This needs room for a second store.
    """
    home = context.home
    folder = home.store.resolve().parent
    filesystem.require_local(folder, context.config().node.allow_filesystem)
    with (
        locks.hold(home.lock_file("serve"), "hashfed migrate"),
        locks.hold(home.lock_file("publish"), "hashfed migrate"),
        progress("migrating", quiet=context.quiet) as bar,
    ):
        done = maintenance_migrate.migrate(
            home,
            clock=context.clock,
            on_progress=lambda what, done, total: bar.update(done, total, what),
        )
    if context.as_json:
        output.emit_json(
            {
                "store": str(home.store),
                "steps": [] if done is None else list(done.steps),
                "kept": None if done is None else str(done.kept),
            }
        )
    elif done is None:
        click.echo(f"{home.store}: nothing to migrate")
    else:
        click.echo(f"{home.store}: migrated by {', '.join(done.steps)}, verified")
        click.echo(f"the old store is now {done.kept}")


@click.command("doctor")
@json_option
@pass_context
def doctor(context: Context) -> None:
    """Look for anything that would keep this node from working, and say what to do about it."""
    from node.cli.network import ask_times  # noqa: PLC0415  # the network: too much for `fsck`

    findings = list(
        maintenance_doctor.examine(
            context.home,
            context.environ,
            context.clock,
            ask_times=lambda store: ask_times(context, store),
        )
    )
    failed = sum(not finding.ok for finding in findings)
    if context.as_json:
        output.emit_json(
            {
                "ok": not failed,
                "findings": [
                    {"check": f.check, "ok": f.ok, "detail": f.detail, "hint": f.hint}
                    for f in findings
                ],
            }
        )
    else:
        for finding in findings:
            mark = click.style("ok  ", fg="green") if finding.ok else click.style("FAIL", fg="red")
            click.echo(f"{mark}  {finding.check}: {output.safe(finding.detail)}")
            if finding.hint:
                click.echo(f"      {output.safe(finding.hint)}")
    if failed:
        raise NodeError(f"{failed} of {len(findings)} checks failed", reason="UNWELL")


COMMANDS = (backup, migrate, doctor)
