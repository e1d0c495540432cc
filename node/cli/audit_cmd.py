"""Commands that answer: lookup, show, log, diff, status."""

from __future__ import annotations

from base64 import b64encode
from itertools import chain

import click

from federation.checkpoint import read_checkpoint
from federation.entry import Operation, OpKind
from federation.errors import FederationError
from node import administering, auditing, exporting
from node.auditing import LogLine, Match, Provenance, describe_operation
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.clock import format_ms
from node.errors import UsageError
from node.store.history import Change

EXIT_NOT_FOUND = 1
EXIT_BAD_INPUT = 2


@click.command("lookup")
@click.argument("hashes", nargs=-1, metavar="[HASH]...")
@click.option(
    "--file", "path", metavar="FILE", help="Read hashes from a file, one a line; - is stdin."
)
@json_option
@pass_context
def lookup(context: Context, hashes: tuple[str, ...], path: str | None) -> None:
    """Find the entries in force, in all lists here, that have a hash.

    HASH is <type>:<digest>, or a digest alone, which is looked up as each type that it could be.
    Purely local. Exit code: 0 when every hash was found, 1 when one was not, 2 when one is no hash.
    """
    if not hashes and path is None:
        raise click.UsageError("name a hash, or --file FILE (- for stdin)")
    exit_code = 0
    with context.reader() as store:
        stream = chain(hashes, () if path is None else output.read_lines(path))
        for text, matches in auditing.lookup_many(store, stream):
            if isinstance(matches, FederationError):
                exit_code = EXIT_BAD_INPUT
                _emit_bad(context, text, matches)
            else:
                if not matches:
                    exit_code = max(exit_code, EXIT_NOT_FOUND)
                _emit_matches(context, text, matches)
    click.get_current_context().exit(exit_code)


def _emit_bad(context: Context, text: str, error: FederationError) -> None:
    if context.as_json:
        output.emit_json(
            {"hash": text, "found": False, "error": str(error), "reason": error.reason}
        )
    else:
        output.say(f"{output.safe(text)}  no hash: {error}")


def _emit_matches(context: Context, text: str, matches: list[Match]) -> None:
    if context.as_json:
        found = [
            {
                "list": str(match.origin),
                "position": match.position,
                "matched": match.fingerprint.format(),
                **describe_operation(match.operation),
            }
            for match in matches
        ]
        output.emit_json({"hash": text, "found": bool(found), "matches": found})
        return
    if not matches:
        output.emit_line(f"{output.safe(text)}  not found")
    for match in matches:
        labels = ", ".join(match.operation.annotation.labels)
        output.emit_line(
            output.safe(
                f"{text}  found in {match.origin}  entry {match.operation.entry.format()}"
                f"  labels [{labels}]  position {match.position}"
            )
        )


# --- show -------------------------------------------------------------------------------------


@click.command("show")
@click.argument("name", metavar="LIST")
@click.argument("target", metavar="ENTRY|HASH")
@json_option
@pass_context
def show(context: Context, name: str, target: str) -> None:
    """Show every version of an entry, and how each came here.

    ENTRY is an entry's id; HASH finds every entry of the list that ever had it.
    """
    with context.reader() as store:
        record = administering.find_list(store, name)
        entries = auditing.show(store, record, target)
    if context.as_json:
        output.emit_json(
            {
                "list": str(record.origin),
                "entries": [
                    {"id": versions[0].operation.entry.format(),
                     "versions": [_provenance(version) for version in versions]}
                    for versions in entries
                ],
            }
        )  # fmt: skip
        return
    for versions in entries:
        live = versions[-1].operation.kind is OpKind.ASSERT
        entry = output.safe(versions[0].operation.entry.format())
        click.echo(f"{entry}  in {record.origin}: {'in force' if live else 'not in force'}")
        for number, version in enumerate(versions, 1):
            _emit_version(number, version)


def _provenance(version: Provenance) -> dict[str, object]:
    return {
        **describe_operation(version.operation),
        "position": version.position,
        "row": version.row,
        "superseded_at_position": version.until,
        "signed_at": format_ms(version.signed_ms),
        "key": version.key_id.hex(),
        "org_root_version": version.root_version,
        "delta": version.delta_hash.hex(),
        "checkpoint": version.checkpoint.decode(),
        "received_at": format_ms(version.received_ms),
        "via": version.via,
        "store_version": version.version,
    }


def _emit_version(number: int, version: Provenance) -> None:
    operation = version.operation
    word = {OpKind.ASSERT: "asserted" if number == 1 else "revised or asserted again"}.get(
        operation.kind, f"{operation.kind.name.lower()}ed".replace("purgeed", "purged")
    )
    click.echo(f"  version {number}: {word}")
    path = (
        f"{version.origin.org}"
        if version.via is None
        else f"{version.origin.org} via {version.via}"
    )
    facts: dict[str, object] = {
        "fingerprints": "  ".join(f.format() for f in operation.fingerprints),
        "labels": ", ".join(operation.annotation.labels),
        "vocabulary": operation.annotation.vocabulary,
        "cause": operation.annotation.cause.word if operation.kind is OpKind.RETRACT else "",
        "reason": operation.annotation.reason,
        "log position": f"{version.position} (row {version.row})",
        "until position": "" if version.until is None else version.until,
        "signed": f"{format_ms(version.signed_ms)} by key {version.key_id.hex()[:16]} "
        f"(org root version {version.root_version})",
        "delta": version.delta_hash.hex(),
        "checkpoint": f"size {version.position + 1}, root {_root(version)}",
        "path": "signed here" if version.via is None else path,
        "received": f"{format_ms(version.received_ms)} (store version {version.version})",
    }
    output.emit_facts({key: value for key, value in facts.items() if value != ""}, indent="    ")


def _root(version: Provenance) -> str:
    return b64encode(read_checkpoint(version.checkpoint).root_hash).decode()


# --- log and diff -----------------------------------------------------------------------------


@click.command("log")
@click.argument("name", metavar="[LIST]", nargs=-1)
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Only the newest N deltas.")
@json_option
@pass_context
def log(context: Context, name: tuple[str, ...], limit: int | None) -> None:
    """Show the deltas of a list's log, newest first."""
    if len(name) > 1:
        raise click.UsageError(f"got {len(name)} lists, at most one")
    with context.reader() as store:
        record = administering.choose_list(store, name)
        lines = auditing.read_log(store, record, limit)
        if context.as_json:
            for line in lines:
                output.emit_json({"list": str(record.origin), **_log_line(line)})
            return
        click.echo(
            f"{record.origin}: {record.log.size} deltas, {record.log.live_count} live entries"
        )
        output.emit_table(
            (
                "position",
                "signed",
                "ops",
                "live",
                "bytes",
                "change set",
                "via",
                "received",
                "delta",
            ),
            (
                (
                    line.position,
                    format_ms(line.header.time_ms),
                    line.header.op_count,
                    line.header.live_count,
                    line.body_size,
                    line.header.change_set,
                    line.via or "-",
                    format_ms(line.received_ms),
                    line.delta_hash.hex()[:16],
                )
                for line in lines
            ),
        )


def _log_line(line: LogLine) -> dict[str, object]:
    header = line.header
    return {
        "position": line.position,
        "delta": line.delta_hash.hex(),
        "signed_at": format_ms(header.time_ms),
        "key": header.key_id.hex(),
        "org_root_version": header.root_version,
        "ops": header.op_count,
        "live": header.live_count,
        "change_set": header.change_set,
        "ends_change_set": header.ends_change_set,
        "body_bytes": line.body_size,
        "received_at": format_ms(line.received_ms),
        "via": line.via,
        "store_version": line.version,
    }


@click.command("diff")
@click.argument("arguments", metavar="[LIST] FROM..TO", nargs=-1, required=True)
@json_option
@pass_context
def diff(context: Context, arguments: tuple[str, ...]) -> None:
    """Show what became of each entry between two points of a list's history.

    A point is position:N, version:N or time:T, as in position:3..position:9.
    """
    *name, span = arguments
    if len(name) > 1:
        raise click.UsageError(f"got {len(name)} lists, at most one")
    start, dots, stop = span.partition("..")
    if not dots:
        raise UsageError(
            f"{span!r} is not a span", hint="write it as position:3..position:9, after the list"
        )
    with context.reader() as store, store.snapshot():
        record = administering.choose_list(store, name)
        points = [exporting.resolve_as_of(store, record, point) for point in (start, stop)]
        counts = {"+": 0, "~": 0, "-": 0}
        for change in auditing.diff(store, record, *points):
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
        "id": change.by.entry.format(),
        "position": change.position,
        "before": side(change.before),
        "after": side(change.after),
        "by": describe_operation(change.by),
    }


def _change_text(change: Change) -> str:
    by = change.by
    text = f"{by.entry.format()}  at position {change.position}"
    if change.after is None:
        cause = by.annotation.cause.word if by.kind is OpKind.RETRACT else "purged"
        return f"{text}  {cause}"
    text += f"  labels [{', '.join(change.after.annotation.labels)}]"
    if change.before is not None:
        text += f" (were [{', '.join(change.before.annotation.labels)}])"
    return text


# --- status -----------------------------------------------------------------------------------


@click.command("status")
@json_option
@pass_context
def status(context: Context) -> None:
    """Show how every list stands here: state, position, lag, last contact."""
    now_ms = context.clock.now_ms()
    with context.reader() as store:
        root = administering.own_root(store)
        statuses = auditing.list_statuses(store, context.mark(), clock=context.clock)
        version = store.version
    if context.as_json:
        output.emit_json(
            {
                "org": root.document.org,
                "fingerprint": root.hash.hex(),
                "store_version": version,
                "lists": [
                    {
                        "list": str(item.record.origin),
                        "own": item.record.own,
                        "via": item.record.via,
                        "state": item.follow.state,
                        "reason": item.follow.reason,
                        "detail": item.follow.detail,
                        "since": format_ms(item.follow.since_ms),
                        "position": item.record.log.size,
                        "peer_position": None if item.record.own else item.follow.head,
                        "behind": item.behind,
                        "live": item.record.log.live_count,
                        "last_contact": format_ms(item.follow.contact_ms)
                        if item.follow.contact_ms
                        else None,
                        "last_delta": format_ms(item.record.log.last_time_ms)
                        if item.record.log.size
                        else None,
                        "checked": item.record.checked,
                        "charter_version": item.record.charter_version,
                    }
                    for item in statuses
                ],
            }
        )
        return
    click.echo(f"{root.document.org}: store version {version}, {len(statuses)} lists")
    if not statuses:
        return
    output.emit_table(
        ("list", "state", "position", "behind", "live", "via", "last contact", "checked", "remark"),
        (
            (
                item.record.origin,
                item.follow.state,
                item.record.log.size,
                item.behind,
                item.record.log.live_count,
                item.record.via or "-",
                _ago(now_ms, item.follow.contact_ms),
                item.record.checked,
                f"{item.follow.reason}: {item.follow.detail}" if item.follow.reason else "",
            )
            for item in statuses
        ),
    )


def _ago(now_ms: int, then_ms: int) -> str:
    if not then_ms:
        return "-"
    seconds = max(0, (now_ms - then_ms) // 1000)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


COMMANDS = (lookup, show, log, diff, status)
