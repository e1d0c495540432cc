"""Commands on peers: invite, and peer add, show, lists, remove."""

from __future__ import annotations

import sys

import click

from federation import limits
from federation.names import parse_org
from federation.trust.orgroot import short_fingerprint
from node.admin import peers as admin_peers
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.clock import format_ms
from node.errors import CommandError, RefusedError
from node.identity import certificate
from node.identity.invitation import Invitation
from node.store import orgs
from node.system import wake


@click.command("invite")
@pass_context
def invite(context: Context) -> None:
    """Print this node's invitation.

    It is public: give it to every organization that is to be a peer. Two people compare the
    fingerprint on stderr, over a channel that they trust.
    """
    with context.reader() as store:
        root = orgs.own_root(store)
    invitation = Invitation(
        root=root,
        address=str(context.config().node.advertise),
        certificate=certificate.load_certificate(context.home.tls_certificate),
    )
    # Check it as its receivers will: what they would refuse must be fixed here.
    invitation.verify(context.clock.now_ms())
    click.echo(invitation.format(), nl=False)
    output.say(f"fingerprint of {root.document.org}: {root.short_fingerprint}")


def _read_invitation(path: str, now_ms: int) -> Invitation:
    try:
        with click.open_file(path, "rb") as file:
            data = file.read(limits.MAX_INVITATION_BYTES + 1)
    except OSError as error:
        raise CommandError(
            f"cannot read {path}: {error.strerror}",
            hint="name a file printed by the other organization's 'hashfed invite'",
        ) from error
    return Invitation.parse(data, now_ms=now_ms)


@click.group("peer", invoke_without_command=True)
@json_option
@click.pass_context
def peer_group(click_context: click.Context) -> None:
    """Show the peers of this node; add and remove them."""
    if click_context.invoked_subcommand is None:
        _show_all(click_context.obj)


def _show_all(context: Context) -> None:
    with context.reader() as store:
        peers = list(orgs.iter_peers(store.connection))
        roots = {peer.org: orgs.load_root(store.connection, peer.org) for peer in peers}
    rows = [
        {
            "org": peer.org,
            "address": peer.address,
            "fingerprint": short_fingerprint(root.hash) if (root := roots[peer.org]) else "",
            "certificate_sha256": peer.certificate_sha256.hex(),
            "added": format_ms(peer.added_ms),
        }
        for peer in peers
    ]
    if context.as_json:
        for row in rows:
            output.emit_json(row)
    elif rows:
        output.emit_table(
            ("peer", "address", "fingerprint", "added"),
            ((row["org"], row["address"], row["fingerprint"], row["added"]) for row in rows),
        )
    else:
        context.remark("no peers yet: run 'hashfed peer add FILE' with another node's invitation")


@peer_group.command("add")
@click.argument("path", metavar="FILE")
@click.option("-y", "--yes", is_flag=True, help="Do not ask: the fingerprint was compared.")
@click.option("--fingerprint", metavar="HEX", help="Add the peer only if it has this fingerprint.")
@json_option
@pass_context
def add(context: Context, path: str, yes: bool, fingerprint: str | None) -> None:
    """Add the peer that an invitation file is from (- for stdin)."""
    invitation = _read_invitation(path, context.clock.now_ms())
    root = invitation.root
    if fingerprint is not None:
        given = fingerprint.replace(" ", "").lower()
        if given not in {root.hash.hex(), root.hash[:16].hex()}:
            raise RefusedError(
                f"the fingerprint of {path} is {root.short_fingerprint}, not the one given",
                hint=f"ask {root.document.org} which fingerprint is theirs; do not add this file",
            )
    elif not yes:
        output.say(f"{root.document.org} at {invitation.address}")
        output.say(f"fingerprint: {root.short_fingerprint}")
        if not sys.stdin.isatty():
            raise RefusedError(
                "no terminal to ask whether the fingerprint is right",
                hint="compare it over another channel, then add --fingerprint HEX or --yes",
            )
        click.confirm("is that the fingerprint they told you?", abort=True, err=True)
    with context.store() as store:
        is_new = admin_peers.add_peer(
            store, invitation, certificate.certificate_sha256(invitation.certificate)
        )
    wake.notify(context.home)
    if context.as_json:
        output.emit_json(
            {
                "org": root.document.org,
                "address": invitation.address,
                "fingerprint": root.hash.hex(),
                "new": is_new,
            }
        )
        return
    word = "added" if is_new else "already a peer:"
    click.echo(f"{word} {root.document.org} at {invitation.address}")
    if is_new:
        output.say(f"fingerprint: {root.short_fingerprint}")


@peer_group.command("remove")
@click.argument("org", metavar="ORG")
@json_option
@pass_context
def remove(context: Context, org: str) -> None:
    """Refuse a peer's calls from now on. Its lists stay here unchanged."""
    with context.store() as store:
        admin_peers.remove_peer(store, parse_org(org))
    wake.notify(context.home)
    if context.as_json:
        output.emit_json({"org": org, "removed": True})
    else:
        click.echo(f"removed {org}: it can no longer call this node, and is no longer called")


COMMANDS = (invite, peer_group)
