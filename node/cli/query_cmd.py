"""Commands that answer questions: lookup, show, log, status."""

from __future__ import annotations

import gc
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Final

import click

from federation.checkpoint import read_checkpoint
from federation.entry import OpKind
from federation.errors import FederationError
from federation.header import LeafKind
from node.admin import lists
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.clock import format_ms
from node.errors import DamageError
from node.query import as_of as query_as_of
from node.query import lookup as query_lookup
from node.query import provenance
from node.query import status as query_status
from node.query.lookup import Match
from node.query.provenance import Provenance, SignedLeaf, describe_operation
from node.query.status import LogLine
from node.store import damage as store_damage
from node.store import orgs
from node.store.damage import Findings

EXIT_NOT_FOUND = 1
EXIT_BAD_INPUT = 2

_OBJECTS_BETWEEN_COLLECTIONS: Final = 50_000
"""The interpreter's default is 700. This saves a fifth of the time of looking up many hashes."""


@click.command("lookup")
@click.argument("hashes", nargs=-1, metavar="[HASH]...")
@click.option(
    "--file", "path", metavar="FILE", help="Read hashes from a file, one per line; - is stdin."
)
@click.option("--list", "name", metavar="LIST", help="Look in this list only.")
@click.option("--as-of", metavar="POINT", help="position:N (with --list), version:N or time:T.")
@json_option
@pass_context
def lookup(
    context: Context,
    hashes: tuple[str, ...],
    path: str | None,
    name: str | None,
    as_of: str | None,
) -> None:
    """Find the entries in force with a given hash, in all lists here.

    HASH is <type>:<digest>, or a digest alone, which is looked up as every type that it could be.
    --as-of finds what was in force here at that point. No peer is asked. Exit code: 0 when every
    hash was found, 1 when one was not found, 2 when one is not a hash, 12 when a list is damaged,
    since a hash that was not found may be in it.
    """
    if not hashes and path is None:
        raise click.UsageError("name a hash, or --file FILE (- for stdin)")
    exit_code = 0
    with context.reader() as store, _millions_of_objects():
        withheld = query_lookup.withheld(store) if name is None else []
        record = None if name is None else lists.find_list(store, name)
        cuts = query_as_of.resolve_cuts(store, record, as_of)
        stream = chain(hashes, () if path is None else output.read_lines(path))
        for text, matches in query_lookup.lookup_many(store, stream, cuts):
            if isinstance(matches, FederationError):
                exit_code = EXIT_BAD_INPUT
                _emit_bad(context, text, matches)
            else:
                if not matches:
                    exit_code = max(exit_code, EXIT_NOT_FOUND)
                _emit_matches(context, text, matches, withheld)
    if withheld:
        raise DamageError(
            f"damaged here: {', '.join(withheld)}: hashes that were not found may be in there",
            hint="stop 'hashfed serve' and run 'hashfed fsck --repair'; --list still looks in a "
            "sound list",
        )
    click.get_current_context().exit(exit_code)


@contextmanager
def _millions_of_objects() -> Iterator[None]:
    """Look for cyclic garbage rarely: a lookup makes many objects, but no cycles."""
    thresholds = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _emit_bad(context: Context, text: str, error: FederationError) -> None:
    if context.as_json:
        output.emit_json(
            {"hash": text, "found": False, "error": str(error), "reason": error.reason}
        )
    else:
        output.say(f"{output.safe(text)}  not a hash: {error}")


def _emit_matches(
    context: Context, text: str, matches: list[Match], withheld: Sequence[str]
) -> None:
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
        unknown = {"withheld": list(withheld)} if withheld else {}
        # Not false: it may be in a list that cannot answer.
        answer = None if withheld and not found else bool(found)
        output.emit_json({"hash": text, "found": answer, "matches": found, **unknown})
        return
    if not matches:
        where = " in the sound lists" if withheld else ""
        output.emit_line(f"{output.safe(text)}  not found{where}")
    for origin, position, _, _, packed in matches:
        said = f"entry {packed.entry.format()}  labels [{', '.join(packed.annotation.labels)}]"
        output.emit_line(
            f"{output.safe(text)}  found in {origin}  {output.safe(said)}  position {position}"
        )


# --- show -------------------------------------------------------------------------------------


@click.command("show")
@click.argument("name", metavar="LIST")
@click.argument("target", metavar="ENTRY|HASH")
@click.option("--fetch", is_flag=True, help="Fetch missing deltas from a peer, with their proofs.")
@json_option
@pass_context
def show(context: Context, name: str, target: str, fetch: bool) -> None:
    """Show every version of an entry, and how each came here.

    ENTRY is an entry's id. HASH finds every entry of the list that ever had it. If an entry came
    with a snapshot, --fetch fetches and verifies the delta that it came from.
    """
    with context.reader() as store:
        record = lists.find_list(store, name)
        entries = provenance.show(store, record, target)
    if fetch and provenance.missing_deltas(entries):
        from node.cli.sync_cmd import fetch_deltas  # noqa: PLC0415  # gRPC: not for every show

        fetch_deltas(context, record, provenance.missing_deltas(entries))
        with context.reader() as store:
            entries = provenance.show(store, record, target)
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
        **_leaf(version.delta, "delta"),
        "snapshot_position": version.snapshot_position,
        "snapshot": None if version.snapshot is None else _leaf(version.snapshot, "leaf"),
        "received_at": format_ms(version.received_ms),
        "via": version.via,
        "store_version": version.version,
    }


def _leaf(leaf: SignedLeaf | None, name: str) -> dict[str, object]:
    return {
        "signed_at": None if leaf is None else format_ms(leaf.signed_ms),
        "key": None if leaf is None else leaf.key_id.hex(),
        "org_root_version": None if leaf is None else leaf.root_version,
        name: None if leaf is None else leaf.leaf_hash.hex(),
        # A damaged checkpoint is shown with its bad bytes escaped.
        "checkpoint": None if leaf is None else leaf.checkpoint.decode(errors="backslashreplace"),
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
        **_leaf_facts(version.delta),
        **_snapshot_facts(version),
        "path": "signed here" if version.via is None else path,
        "received": f"{format_ms(version.received_ms)} (store version {version.version})",
    }
    output.emit_facts({key: value for key, value in facts.items() if value != ""}, indent="    ")


def _leaf_facts(leaf: SignedLeaf | None) -> dict[str, object]:
    if leaf is None:
        return {"delta": "not here: the entry came with a snapshot; --fetch gets it"}
    try:
        checkpoint = read_checkpoint(leaf.checkpoint)
        root = b64encode(checkpoint.root_hash).decode()
        shown = f"size {checkpoint.size}, root {root}"
    except FederationError as error:
        shown = f"damaged here ({error}): run 'hashfed fsck'"
    return {
        "signed": f"{format_ms(leaf.signed_ms)} by key {leaf.key_id.hex()[:16]} "
        f"(org root version {leaf.root_version})",
        "delta": leaf.leaf_hash.hex(),
        "checkpoint": shown,
    }


def _snapshot_facts(version: Provenance) -> dict[str, object]:
    leaf = version.snapshot
    if leaf is None:
        return {}
    return {
        "snapshot": f"position {version.snapshot_position}, signed {format_ms(leaf.signed_ms)} by "
        f"key {leaf.key_id.hex()[:16]}, leaf {leaf.leaf_hash.hex()}"
    }


# --- log --------------------------------------------------------------------------------------


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
        record = lists.choose_list(store, name)
        lines = query_status.read_log(store, record, limit)
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
                    line.header.op_count if line.header.kind is LeafKind.DELTA else "snapshot",
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
        "kind": header.kind.name.lower(),
        "ops": header.op_count if header.kind is LeafKind.DELTA else 0,
        "buckets": header.op_count if header.kind is LeafKind.SNAPSHOT else None,
        "live": header.live_count,
        "change_set": header.change_set,
        "ends_change_set": header.ends_change_set,
        "body_bytes": line.body_size,
        "received_at": format_ms(line.received_ms),
        "via": line.via,
        "store_version": line.version,
    }


# --- status -----------------------------------------------------------------------------------


@click.command("status")
@json_option
@pass_context
def status(context: Context) -> None:
    """Show each list here: its state, position, lag and last contact."""
    now_ms = context.clock.now_ms()
    with context.reader() as store:
        root = orgs.own_root(store)
        statuses = query_status.list_statuses(store, context.mark(), clock=context.clock)
        version = store.version
        known = store_damage.load(store.path)
    if context.as_json:
        output.emit_json(
            {
                "org": root.document.org,
                "fingerprint": root.hash.hex(),
                "store_version": version,
                "last_check": None if known.ended_ms is None else format_ms(known.ended_ms),
                "damages": [damage.describe() for damage in known.damages],
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
                        "retained_from": item.record.log.start,
                        "snapshot_position": item.snapshot,
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
    click.echo(
        f"{root.document.org}: store version {version}, {len(statuses)} lists, "
        f"{_describe_check(known, now_ms)}"
    )
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


def _describe_check(known: Findings, now_ms: int) -> str:
    """Return when the whole store was last checked, and how much damage is known."""
    last = "never fully checked"
    if known.ended_ms is not None:
        last = f"fully checked {_ago(now_ms, known.ended_ms)}"
    return f"{last}, {len(known.damages)} damages" if known.damages else last


def _ago(now_ms: int, then_ms: int) -> str:
    if not then_ms:
        return "-"
    seconds = max(0, (now_ms - then_ms) // 1000)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


COMMANDS = (lookup, show, log, status)
