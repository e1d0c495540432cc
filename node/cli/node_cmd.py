"""Commands on the node itself: init, config."""

from __future__ import annotations

import secrets

import click

from federation import wire
from federation.names import parse_org
from node.address import parse_address
from node.admin import peers
from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.config import (
    Config,
    NodeConfig,
    describe,
    render_initial,
)
from node.errors import CommandError, ConfigError
from node.identity import create
from node.identity.certificate import certificate_sha256
from node.publish.high_water import HighWater
from node.store.connection import Store
from node.system import durable, filesystem


@click.command("init")
@click.option("--org", required=True, metavar="NAME", help="The organization: a DNS name it owns.")
@click.option("--listen", required=True, metavar="HOST:PORT", help="Where to serve peers.")
@click.option("--advertise", metavar="HOST:PORT", help="Where peers call, if not at --listen.")
@json_option
@pass_context
def init(context: Context, org: str, listen: str, advertise: str | None) -> None:
    """Make a new node: its folder, keys, certificate, organization root and store."""
    home = context.home
    name = parse_org(org)
    listens = parse_address(listen, allow_port_0=True)
    called = listens if advertise is None else parse_address(advertise)
    if advertise is not None and not called.is_callable:
        raise ConfigError(
            f"peers cannot call the address {advertise!r}",
            hint="give the host name or address at which peers reach this node",
        )
    config = Config(node=NodeConfig(org=name, listen=listens, advertise=called))
    if home.config.exists():
        raise CommandError(
            f"there is already a node in {home.path}", hint="name another folder with --home"
        )
    try:
        durable.make_folder(home.path)
    except OSError as error:
        raise ConfigError(f"cannot make {home.path}: {error.strerror}") from error
    if home.keys.exists() or home.store.exists() or home.mark.exists():
        raise CommandError(
            f"{home.path} holds keys, a store or a mark, but no configuration",
            hint="an earlier init was interrupted, or files are missing: put them back, or move "
            "the folder away",
        )
    filesystem.require_local(home.path, config.node.allow_filesystem)
    now_ms = context.clock.now_ms()
    keys = create.create_keys(home, name, now_ms)
    envelope = create.create_org_root(
        name,
        root=keys.root,
        publisher=keys.publisher,
        log=keys.log,
        certificate_sha256=certificate_sha256(keys.certificate),
        now_ms=now_ms,
    )
    root = wire.open_org_root(envelope)
    store = Store.create(home.store, context.clock)
    try:
        peers.create_node(store, root)
    finally:
        store.close()
    HighWater(home.mark, name).create()
    # Write it last, and completely or not at all: it makes the folder a node.
    unnamed = home.config.with_name(f".{home.config.name}.{secrets.token_hex(8)}")
    with durable.disk_errors(home.config):
        durable.sync(home.path)
        durable.write_new(unnamed, render_initial(config).encode())
        durable.rename(unnamed, home.config)
    if context.as_json:
        output.emit_json(
            {"org": name, "home": str(home.path), "listen": listen, "fingerprint": root.hash.hex()}
        )
        return
    click.echo(f"made the node of {name} in {home.path}")
    click.echo(f"fingerprint: {root.short_fingerprint}")
    context.remark(
        f"keep {home.root_key} offline: it is not needed to run\n"
        "next: 'hashfed invite' for your peers, 'hashfed list create' for a list of your own"
    )


@click.command("config")
@json_option
@pass_context
def config_show(context: Context) -> None:
    """Show every setting, its value and where it came from."""
    rows = describe(context.config())
    if context.as_json:
        output.emit_json({row.key: {"value": row.value, "source": row.source} for row in rows})
    else:
        output.emit_table(("setting", "value", "from"), ((r.key, r.value, r.source) for r in rows))


COMMANDS = (init, config_show)
