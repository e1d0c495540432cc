"""The command that runs the node: serve."""

from __future__ import annotations

import asyncio

import click

from node.cli.context import Context, pass_context
from node.cli.network import tls_identity
from node.config import load_config
from node.daemon import serve as daemon_serve
from node.telemetry import logs


@click.command("serve")
@click.option("--listen", metavar="HOST:PORT", help="Where to serve peers [node.listen].")
@click.option("--metrics", metavar="HOST:PORT", help="Where to serve metrics [metrics.listen].")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error [log.level].")
@click.option("--log-format", metavar="FORMAT", help="auto, json or console [log.format].")
@pass_context
def serve(
    context: Context,
    listen: str | None,
    metrics: str | None,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Serve peers and keep following lists, until SIGTERM or Ctrl-C."""
    config = load_config(
        context.home,
        context.environ,
        {
            "node.listen": listen,
            "metrics.listen": metrics,
            "log.level": log_level,
            "log.format": log_format,
        },
    )
    # Refuse a store, keys and certificate of different nodes before any peer can call.
    tls_identity(context)
    logs.configure(config.log.level, config.log.format)
    asyncio.run(daemon_serve.serve(context.home, config, clock=context.clock))


COMMANDS = (serve,)
