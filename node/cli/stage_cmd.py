"""Commands that change a list of our own: import, retract, purge, staged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from federation.entry import CAUSES, EntryId, Operation
from node.admin import lists
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.cli.progress import progress
from node.errors import NodeError
from node.formats.jsonl import Format
from node.staging import import_file
from node.staging.file import Staging
from node.staging.reconcile import Effect
from node.store.connection import Store
from node.store.lists import ListRecord
from node.system import durable, locks

_STAGING_WAIT_SECONDS: Final = 10.0
"""How long a command waits for another one that stages or publishes the same list."""


@contextmanager
def open_staging(context: Context, record: ListRecord, *, what: str) -> Iterator[Staging]:
    """Open what is staged for one of our own lists, while no other process has it open.

    What an import stages depends on what is in force, and publishing puts staged changes in force.
    So the two take turns.
    """
    path = context.home.staging_file(record.origin.name)
    with durable.disk_errors(path.parent):
        durable.make_folder(path.parent)
    with locks.hold(path.with_suffix(".lock"), what, wait_seconds=_STAGING_WAIT_SECONDS):
        staging = Staging.open(path)
        try:
            staging.claim(str(record.origin))
            yield staging
        finally:
            staging.close()


@contextmanager
def _own_list(
    context: Context, name: str, what: str
) -> Iterator[tuple[Store, ListRecord, Staging]]:
    """Open one of our own lists and what is staged for it."""
    with context.reader() as store:
        record = lists.find_own_list(store, name)
        with open_staging(context, record, what=what) as staging:
            yield store, record, staging


def _effect_text(effect: Effect) -> str:
    words = [
        f"{count} {word}"
        for word, count in asdict(effect).items()
        if count or word in {"new", "revised", "retracted"}
    ]
    return ", ".join(words)


@click.command("import")
@click.argument("name", metavar="LIST")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "file_format",
    type=click.Choice([kind.value for kind in Format]),
    help="The text form: JSON Lines, or CSV with the header type,digest,label.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Show what would change, but stage nothing.")
@json_option
@pass_context
def import_command(
    context: Context, name: str, path: Path, file_format: str | None, dry_run: bool
) -> None:
    """Stage the changes in a file (- for stdin), all or none of them; 'publish' signs them.

    FILE is JSON Lines, one change per line, or CSV with the header type,digest,label. Either may be
    compressed with gzip.
    """
    with (
        _own_list(context, name, "hashfed import") as (store, record, staging),
        progress("reading", unit="bytes", quiet=context.quiet) as bar,
    ):
        report = import_file.import_changes(
            store,
            record,
            staging,
            path,
            file_format=None if file_format is None else Format(file_format),
            dry_run=dry_run,
            on_progress=lambda done, total, rows: bar.update(done, total, f"{rows} rows"),
        )
        staged = sum(staging.count_by_kind().values())
    if context.as_json:
        output.emit_json(
            {
                "list": str(record.origin),
                "rows": report.rows,
                "effect": asdict(report.effect),
                "staged": report.staged,
                "staged_operations": staged,
                "error_count": report.error_count,
                "errors": [error._asdict() for error in report.errors],
            }
        )
    else:
        for error in report.errors:
            output.say(
                f"{path}:{error.line}: {error.reason}: {output.safe(error.message)}"
                f"  [{output.safe(error.value)}]"
            )
    if report.error_count:
        hidden = report.error_count - len(report.errors)
        raise NodeError(
            # A header that cannot be read counts as an error, but not as a row.
            f"{report.error_count} of {max(report.rows, report.error_count)} rows cannot be "
            "imported; nothing was staged" + (f" ({hidden} more not shown)" if hidden else ""),
            hint="correct or remove these rows, and import the file again",
            reason="BAD_ROWS",
        )
    if not context.as_json:
        word = "would change" if dry_run else "staged"
        click.echo(f"{record.origin}: {report.rows} rows; {word}: {_effect_text(report.effect)}")
        if not dry_run and staged:
            context.remark(f"next: 'hashfed publish {name}' signs {staged} staged changes")


@click.command("retract")
@click.argument("name", metavar="LIST")
@click.argument("target", metavar="ENTRY|HASH")
@click.option("--cause", required=True, type=click.Choice(sorted(CAUSES)), help="Why.")
@click.option("--reason", default="", metavar="TEXT", help="A sentence for people; it is shared.")
@json_option
@pass_context
def retract(context: Context, name: str, target: str, cause: str, reason: str) -> None:
    """Stage the retraction of an entry, named by its id or by a hash that only it has."""
    with _own_list(context, name, "hashfed retract") as (store, record, staging):
        done = import_file.stage_retraction(
            store, record, staging, target, CAUSES[cause], reason=reason
        )
    if context.as_json:
        output.emit_json(
            {
                "list": str(record.origin),
                "id": done.entry.format(),
                "effect": asdict(done.effect),
                "others_with_that_hash": [entry.format() for entry in done.others],
            }
        )
        return
    click.echo(f"{record.origin}: {output.safe(done.entry.format())}: {_effect_text(done.effect)}")
    for other in done.others:
        context.remark(f"note: {output.safe(other.format())} also has that hash, and stays")
    context.remark(f"next: 'hashfed publish {name}' signs it")


@click.command("purge")
@click.argument("name", metavar="LIST")
@click.argument("entry", metavar="ENTRY")
@json_option
@pass_context
def purge(context: Context, name: str, entry: str) -> None:
    """Stage the purge of an entry: withdraw it for good, without giving a reason."""
    with _own_list(context, name, "hashfed purge") as (store, record, staging):
        effect = import_file.stage_operations(
            store, record, staging, [Operation.purge(EntryId.parse(entry))]
        )
    if context.as_json:
        output.emit_json({"list": str(record.origin), "id": entry, "effect": asdict(effect)})
    else:
        click.echo(f"{record.origin}: {output.safe(entry)}: {_effect_text(effect)}")
        context.remark(f"next: 'hashfed publish {name}' signs it")


@click.command("staged")
@click.argument("name", metavar="LIST")
@click.option("--clear", is_flag=True, help="Discard everything that is staged.")
@json_option
@pass_context
def staged_command(context: Context, name: str, clear: bool) -> None:
    """Show how much is staged for a list, or discard it."""
    with _own_list(context, name, "hashfed staged") as (_store, record, staging):
        counts = {kind.name.lower(): number for kind, number in staging.count_by_kind().items()}
        cleared = staging.clear() if clear else 0
    if context.as_json:
        output.emit_json({"list": str(record.origin), "staged": counts, "cleared": cleared})
    elif clear:
        click.echo(f"{record.origin}: discarded {cleared} staged changes")
    else:
        text = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
        click.echo(f"{record.origin}: staged: {text or 'nothing'}")


COMMANDS = (import_command, retract, purge, staged_command)
