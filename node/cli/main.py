"""The program `hashfed`: global options, errors and exit codes."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import Final

import click

from federation.errors import FederationError
from node.cli import output
from node.cli.context import Context
from node.errors import DiskError, NodeError

EXIT_INTERRUPTED = 130

_COLLECT_AFTER: Final = 100_000
"""New objects after which the garbage collector looks for cycles."""


COMMANDS: Final = {
    "init": "node_cmd",
    "config": "node_cmd",
    "serve": "serve_cmd",
    "invite": "peer_cmd",
    "peer": "peer_cmd",
    "list": "list_cmd",
    "follow": "list_cmd",
    "unfollow": "list_cmd",
    "import": "change_cmd",
    "retract": "change_cmd",
    "purge": "change_cmd",
    "staged": "change_cmd",
    "publish": "publish_cmd",
    "recover": "recover_cmd",
    "export": "change_cmd",
    "sync": "sync_cmd",
    "offers": "sync_cmd",
    "lookup": "audit_cmd",
    "show": "audit_cmd",
    "log": "audit_cmd",
    "diff": "audit_cmd",
    "status": "audit_cmd",
    "fsck": "upkeep_cmd",
    "backup": "upkeep_cmd",
    "restore": "recover_cmd",
    "doctor": "upkeep_cmd",
}
"""Each command and the module that it is in; a module is imported when it is needed, since what
`sync` needs would slow down the start of every `lookup`."""


class _Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module_name = COMMANDS.get(cmd_name)
        if module_name is None:
            return None
        module = import_module(f"node.cli.{module_name}")
        commands: tuple[click.Command, ...] = module.COMMANDS
        return next(command for command in commands if command.name == cmd_name)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--home", metavar="DIR", help="The node's folder [env: HASHFED_HOME].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (lines for streams).")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no remarks.")
@click.version_option(package_name="hashfed", message="hashfed %(version)s")
@click.pass_context
def cli(context: click.Context, home: str | None, as_json: bool, quiet: bool) -> None:
    """Share hash lists between organizations: signed, verified, merged; never an image."""
    context.obj = Context(home_option=home, as_json=as_json, quiet=quiet, environ=os.environ)


def main() -> None:
    """Run the program and exit with its code."""
    # gRPC's C core logs to stderr by itself; what matters reaches the user as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Bulk work makes millions of tuples that are in no cycles: the default has the collector look
    # through them every 700, which takes a third of the time of an import.
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
    as_json = "--json" in sys.argv
    try:
        code = cli.main(standalone_mode=False)
        # Now: when the interpreter ends, nobody could say what went wrong.
        sys.stdout.flush()
    except click.exceptions.Abort:
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        if as_json:
            output.emit_error(
                error, reason="USAGE", hint="", exit_code=error.exit_code, as_json=True
            )
        else:
            error.show()
        code = error.exit_code
    except NodeError as error:
        output.emit_error(
            error,
            reason=error.reason,
            hint=error.hint,
            exit_code=error.exit_code,
            as_json=as_json,
        )
        code = error.exit_code
        if isinstance(error, DiskError):
            # Without what an interpreter does at its end: no connection is to write anything more.
            sys.stderr.flush()
            os._exit(code)
    except FederationError as error:
        # What a command was given by its user is parsed by the protocol library.
        output.emit_error(error, reason=error.reason, hint="", exit_code=2, as_json=as_json)
        code = 2
    except BrokenPipeError:
        # The reader of our output has had enough.
        _abandon_output()
        code = 1
    except OSError as error:
        # Files have their own errors; what is left is our output, such as to a full disk.
        _abandon_output()
        failure = NodeError(f"{error.filename or 'the output'}: {error.strerror or error}")
        output.emit_error(failure, reason=failure.reason, hint="", exit_code=1, as_json=as_json)
        code = failure.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _abandon_output() -> None:
    """Let go of what is still to be written, so that the interpreter does not try it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
