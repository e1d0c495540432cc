"""The command that runs the node: serve."""

from __future__ import annotations

import asyncio

import click

from node import daemon, logs
from node.cli.context import Context, pass_context


@click.command("serve")
@pass_context
def serve(context: Context) -> None:
    """Serve peers and keep following lists, until SIGTERM or Ctrl-C."""
    config = context.config()
    logs.configure(config.log.level, config.log.format)
    asyncio.run(daemon.serve(context.home, config, clock=context.clock))


COMMANDS = (serve,)
