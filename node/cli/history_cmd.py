"""Commands on the points of a list's history: diff, export."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from federation.entry import Operation, OpKind
from node.admin import lists
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.errors import CommandError
from node.formats.jsonl import Format
from node.query import as_of as query_as_of
from node.query import diff as query_diff
from node.query import export as query_export
from node.query.provenance import describe_operation
from node.store.history import Change


@click.command("diff")
@click.argument("arguments", metavar="[LIST] FROM..TO", nargs=-1, required=True)
@json_option
@pass_context
def diff(context: Context, arguments: tuple[str, ...]) -> None:
    """Show what happened to each entry between two points of a list's history.

    A point is position:N, version:N or time:T, as in position:3..position:9.
    """
    *name, span = arguments
    if len(name) > 1:
        raise click.UsageError(f"got {len(name)} lists, at most one")
    start, dots, stop = span.partition("..")
    if not dots:
        raise CommandError(
            f"{span!r} is not a span", hint="write it as position:3..position:9, after the list"
        )
    with context.reader() as store, store.snapshot():
        record = lists.choose_list(store, name)
        points = [query_as_of.resolve_as_of(store, record, point) for point in (start, stop)]
        counts = {"+": 0, "~": 0, "-": 0}
        for change in query_diff.diff(store, record, *points):
            mark = _mark(change)
            counts[mark] += 1
            if context.as_json:
                output.emit_json({"list": str(record.origin), **_change(change)})
            else:
                output.emit_line(output.safe(f"{mark} {_change_text(change)}"))
    if not context.as_json:
        context.remark(
            f"{record.origin} from position {points[0]} to {points[1]}: "
            f"{counts['+']} added, {counts['~']} revised, {counts['-']} removed"
        )


def _mark(change: Change) -> str:
    if change.after is None:
        return "-"
    return "+" if change.before is None else "~"


def _change(change: Change) -> dict[str, object]:
    def side(operation: Operation | None) -> dict[str, object] | None:
        return None if operation is None else describe_operation(operation)

    return {
        "change": {"+": "added", "~": "revised", "-": "removed"}[_mark(change)],
        "id": change.entry.format(),
        "position": change.position,
        "before": side(change.before),
        "after": side(change.after),
        "by": side(change.by),
    }


def _change_text(change: Change) -> str:
    by = change.by
    text = f"{change.entry.format()}  at position {change.position}"
    if change.after is None:
        if by is None:
            return f"{text}  not in the snapshot"
        cause = by.annotation.cause.word if by.kind is OpKind.RETRACT else "purged"
        return f"{text}  {cause}"
    text += f"  labels [{', '.join(change.after.annotation.labels)}]"
    if change.before is not None:
        text += f" (were [{', '.join(change.before.annotation.labels)}])"
    return text


@click.command("export")
@click.argument("name", metavar="LIST")
@click.option(
    "--format",
    "file_format",
    type=click.Choice([kind.value for kind in Format]),
    help="The text form: JSON Lines, or CSV with the header type,digest,label.",
)
@click.option("--as-of", metavar="POINT", help="position:N, version:N or time:T (RFC 3339).")
@click.option(
    "-o", "--output", "path", type=click.Path(path_type=Path), help="A file instead of stdout."
)
@pass_context
def export(
    context: Context, name: str, file_format: str | None, as_of: str | None, path: Path | None
) -> None:
    """Write the live entries of a list, sorted, now or as of a point in its history."""
    with context.reader() as store:
        record = lists.find_list(store, name)
        position = record.log.size
        if as_of is not None:
            position = query_as_of.resolve_as_of(store, record, as_of)
        lines = query_export.export(
            store,
            record,
            position,
            Format(file_format or Format.JSONL),
            sys.stdout.buffer if path is None else path,
        )
    if path is not None:
        context.remark(f"wrote {lines} lines: {record.origin} as of position {position}")


COMMANDS = (diff, export)
