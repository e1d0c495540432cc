"""Commands on lists: create, show, audience; follow."""

from __future__ import annotations

import click

from federation.names import Origin, parse_org
from federation.trust.charter import Audience
from node.admin import lists
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.cli.signing import obtain_permit, publish_lock
from node.identity import keys
from node.store import lists as list_store
from node.system import wake


@click.group("list", invoke_without_command=True)
@json_option
@click.pass_context
def list_group(click_context: click.Context) -> None:
    """Show the lists here; create lists of our own and set who may receive them."""
    if click_context.invoked_subcommand is None:
        _show_all(click_context.obj)


def _audience_text(audience: Audience | None) -> str:
    if audience is None:
        return "not known yet"
    if audience.all_peers:
        return "all-peers"
    return ",".join(audience.orgs) or "nobody"


def _show_all(context: Context) -> None:
    with context.reader() as store:
        rows = [
            (record, record.open_charter()) for record in list_store.iter_lists(store.connection)
        ]
    if context.as_json:
        for record, charter in rows:
            output.emit_json(
                {
                    "list": str(record.origin),
                    "own": record.own,
                    "via": record.via,
                    "position": record.log.size,
                    "live": record.log.live_count,
                    "audience": _audience_text(charter.audience if charter else None),
                    "charter_version": record.charter_version,
                }
            )
        return
    if not rows:
        context.remark(
            "no lists here yet: 'hashfed list create' makes one, 'hashfed follow' fetches one"
        )
        return
    output.emit_table(
        ("list", "via", "deltas", "live", "audience"),
        (
            (
                record.origin,
                "own" if record.own else record.via or "-",
                record.log.size,
                record.log.live_count,
                _audience_text(charter.audience if charter else None),
            )
            for record, charter in rows
        ),
    )


_audience_option = click.option(
    "--audience",
    required=True,
    metavar="ORG,...|all-peers",
    help="Who may receive the list: organizations separated by commas, or all-peers; '' is nobody.",
)


@list_group.command("create")
@click.argument("name", metavar="LIST")
@_audience_option
@json_option
@pass_context
def create(context: Context, name: str, audience: str) -> None:
    """Create a list of our own."""
    chosen = lists.parse_audience(audience)
    with publish_lock(context, "hashfed list create"), context.store() as store:
        origin = lists.create_list(
            store,
            name,
            chosen,
            keys.load_signer(context.home.publisher_key),
            now_ms=context.clock.now_ms(),
            mark=context.mark(),
        )
    wake.notify(context.home)
    if context.as_json:
        output.emit_json({"list": str(origin), "audience": _audience_text(chosen)})
        return
    click.echo(f"created {origin} for {_audience_text(chosen)}")
    context.remark(f"next: 'hashfed import {name} FILE', then 'hashfed publish {name}'")


@list_group.command("audience")
@click.argument("name", metavar="LIST")
@_audience_option
@json_option
@pass_context
def audience_command(context: Context, name: str, audience: str) -> None:
    """Change who may receive one of our lists. What was sent before stays where it is."""
    chosen = lists.parse_audience(audience)
    with publish_lock(context, "hashfed list audience"), context.store() as store:
        # Each version of a charter is signed only once too.
        record = lists.find_own_list(store, name)
        obtain_permit(context, store, record.origin)
        version = lists.change_audience(
            store,
            record,
            chosen,
            keys.load_signer(context.home.publisher_key),
            now_ms=context.clock.now_ms(),
        )
    wake.notify(context.home)
    if context.as_json:
        output.emit_json(
            {
                "list": str(record.origin),
                "audience": _audience_text(chosen),
                "charter_version": version,
            }
        )
    else:
        click.echo(f"{record.origin} is now for {_audience_text(chosen)} (charter {version})")


@click.command("follow")
@click.argument("origin", metavar="ORG/LIST")
@click.option("--via", metavar="ORG", help="Fetch it from this peer, a relay, not its owner.")
@click.option(
    "--all-deltas/--snapshots",
    default=None,
    help="Fetch every delta of its history, or take a snapshot where a peer offers one (default).",
)
@json_option
@pass_context
def follow(context: Context, origin: str, via: str | None, all_deltas: bool | None) -> None:
    """Follow another organization's list, from its owner or from a relay."""
    parsed = Origin.parse(origin)
    relay = None if via is None else parse_org(via)
    with context.store() as store:
        record = lists.follow(store, parsed, relay, all_deltas=all_deltas)
    wake.notify(context.home)
    if context.as_json:
        output.emit_json({"list": str(record.origin), "via": record.via})
        return
    click.echo(f"following {record.origin} via {record.via}")
    context.remark("next: 'hashfed sync' once, or 'hashfed serve' to keep following")


@click.command("unfollow")
@click.argument("origin", metavar="ORG/LIST")
@json_option
@pass_context
def unfollow(context: Context, origin: str) -> None:
    """Stop fetching a list. Its entries stay here, and lookups still answer from them."""
    with context.store() as store:
        record = lists.unfollow(store, Origin.parse(origin))
    wake.notify(context.home)
    if context.as_json:
        output.emit_json({"list": str(record.origin), "via": None})
    else:
        click.echo(f"no longer following {record.origin}; its {record.log.live_count} entries stay")


COMMANDS = (list_group, follow, unfollow)
