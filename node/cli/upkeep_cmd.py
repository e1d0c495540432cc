"""Commands that look after a node: fsck, backup, doctor."""

from __future__ import annotations

from pathlib import Path

import click

from node import backing_up, diagnosing
from node import fsck as checks
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.cli.progress import progress
from node.errors import DamageError, NodeError


@click.command("fsck")
@json_option
@pass_context
def fsck(context: Context) -> None:
    """Check everything that is stored against what was signed.

    Every signature, leaf, root, body, bucket, operation and index row is derived anew from the
    signed bytes. Nothing is changed. Exit code 12 when anything differs.
    """
    found = []
    lists: dict[str, int] = {}
    with context.reader() as store, progress("checking", quiet=context.quiet) as bar:

        def report(origin: str, done: int, total: int) -> None:
            lists[origin] = total
            bar.update(done, total, origin)

        for damage in checks.fsck(store, on_progress=report):
            found.append(damage)
            if not context.as_json:
                at = "" if damage.position is None else f" position {damage.position}"
                click.echo(f"{damage.origin or 'store'}{at}: {output.safe(damage.message)}")
    if context.as_json:
        output.emit_json(
            {
                "ok": not found,
                "lists": lists,
                "damages": [
                    {"list": d.origin or None, "position": d.position, "message": d.message}
                    for d in found
                ],
            }
        )
    if found:
        raise DamageError(
            f"{len(found)} differences from what was signed",
            hint="keep this file as it is; restore a verified backup, or fetch the lists anew",
        )
    if not context.as_json:
        leaves = sum(lists.values())
        click.echo(f"sound: {leaves} deltas and buckets of {len(lists)} lists are what was signed")


@click.command("backup")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@pass_context
def backup(context: Context, path: Path) -> None:
    """Copy the store to a new file, also while serving, and verify the copy. Keys are not in it."""
    with context.reader() as store, progress("copying", quiet=context.quiet) as bar:
        result = backing_up.backup(
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
    context.remark("the keys are not in it: keep a copy of the folder keys/ apart, offline")


@click.command("doctor")
@json_option
@pass_context
def doctor(context: Context) -> None:
    """Look for what would keep this node from working, and say what to do about it."""
    from node.cli.asking import ask_times  # noqa: PLC0415  # the network: too much for `fsck`

    findings = list(
        diagnosing.examine(
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


COMMANDS = (fsck, backup, doctor)
