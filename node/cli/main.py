"""The program `hashfed`: global options, errors and exit codes."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Final

import click

from federation.errors import FederationError
from node.cli import output
from node.errors import DiskError, NodeError, UnforeseenError

EXIT_INTERRUPTED = 130

_COLLECT_AFTER: Final = 100_000
"""How many new objects there are before the garbage collector looks for cycles."""


COMMANDS: Final = {
    "init": (
        "node_cmd",
        "Make a new node: its folder, keys, certificate, organization root and store.",
    ),
    "config": ("node_cmd", "Show every setting, its value and where it came from."),
    "serve": ("serve_cmd", "Serve peers and keep following lists, until SIGTERM or Ctrl-C."),
    "invite": ("peer_cmd", "Print this node's invitation."),
    "peer": ("peer_cmd", "Show the peers of this node; add and remove them."),
    "list": (
        "list_cmd",
        "Show the lists here; create lists of our own and set who may receive them.",
    ),
    "follow": ("list_cmd", "Follow another organization's list, from its owner or from a relay."),
    "unfollow": (
        "list_cmd",
        "Stop fetching a list.",
    ),
    "import": (
        "stage_cmd",
        "Stage the changes in a file (- for stdin), all or none of them; 'publish' signs them.",
    ),
    "retract": (
        "stage_cmd",
        "Stage the retraction of an entry, named by its id or by a hash that only it has.",
    ),
    "purge": (
        "stage_cmd",
        "Stage the purge of an entry: withdraw it for good, without giving a reason.",
    ),
    "staged": ("stage_cmd", "Show how much is staged for a list, or discard it."),
    "publish": (
        "publish_cmd",
        "Sign what is staged for a list: one delta, or several where one would exceed the cap.",
    ),
    "recover": (
        "recover_cmd",
        "Bring a list of our own to a state in which it is safe to sign for it again.",
    ),
    "snapshot": (
        "snapshot_cmd",
        "Sign a snapshot of a list of our own, or rebuild that of a followed list to serve it.",
    ),
    "export": (
        "history_cmd",
        "Write the live entries of a list, sorted, now or as of a point in its history.",
    ),
    "sync": (
        "sync_cmd",
        "Fetch, verify and merge, once, what peers have of the lists followed here.",
    ),
    "offers": ("sync_cmd", "Ask a peer which of its lists this node may follow."),
    "lookup": ("query_cmd", "Find the entries in force with a given hash, in all lists here."),
    "show": ("query_cmd", "Show every version of an entry, and how each came here."),
    "log": ("query_cmd", "Show the deltas of a list's log, newest first."),
    "diff": (
        "history_cmd",
        "Show what happened to each entry between two points of a list's history.",
    ),
    "status": ("query_cmd", "Show each list here: its state, position, lag and last contact."),
    "fsck": ("fsck_cmd", "Check everything that is stored against what was signed."),
    "backup": (
        "maintenance_cmd",
        "Copy the store to a new file, also while serving, and verify the copy.",
    ),
    "restore": (
        "recover_cmd",
        "Check a backup and put it in place of the store; the old store is kept.",
    ),
    "migrate": (
        "maintenance_cmd",
        "Replace a store of an older hashfed by a migrated, verified copy; the old store is kept.",
    ),
    "doctor": (
        "maintenance_cmd",
        "Look for anything that would keep this node from working, and say what to do about it.",
    ),
}
"""Each command, its module, and the first sentence of its help. A module is imported only when its
command runs: importing what `sync` needs would slow down the start of every `lookup`, and
importing everything would slow down `--help`."""


class _Commands(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"node.cli.{COMMANDS[cmd_name][0]}")
        commands: tuple[click.Command, ...] = module.COMMANDS
        return next(command for command in commands if command.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, click.Command(name, help=text).get_short_help_str(limit))
                    for name, (_, text) in COMMANDS.items()
                ]
            )


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
    from node.cli.context import Context  # noqa: PLC0415  # opens stores: too much for --help

    context.obj = Context(home_option=home, as_json=as_json, quiet=quiet, environ=os.environ)


def main() -> None:
    """Run the program and exit with its code."""
    # gRPC's C core logs to stderr by itself; what matters reaches the user as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Bulk work makes millions of tuples that are in no cycles. By default the collector looks
    # through them every 700 objects, which takes a third of the time of an import.
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
    # A leaked list helps offenders: what the program writes is for its owner alone, whatever the
    # umask is, including the files that libraries make.
    os.umask(0o077)
    as_json = "--json" in sys.argv
    try:
        code = cli.main(standalone_mode=False)
        # Flush now: a failure at the interpreter's exit could not be explained.
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
        code = _tell(error, as_json=as_json)
        if isinstance(error, DiskError):
            # Skip the interpreter's exit handlers: no connection may write anything more.
            sys.stderr.flush()
            os._exit(code)
    except FederationError as error:
        # An error of the protocol library: it parses what the user gave the command.
        output.emit_error(error, reason=error.reason, hint="", exit_code=2, as_json=as_json)
        code = 2
    except BrokenPipeError:
        # The reader of our output has closed it.
        _abandon_output()
        code = 1
    except OSError as error:
        # Files have their own errors; what is left is our output, for example to a full disk.
        _abandon_output()
        failure = NodeError(f"{error.filename or 'the output'}: {error.strerror or error}")
        code = _tell(failure, as_json=as_json)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        code = _tell(_describe(error), as_json=as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(error: NodeError, *, as_json: bool) -> int:
    """Tell a person what went wrong; return the exit code."""
    output.emit_error(
        error, reason=error.reason, hint=error.hint, exit_code=error.exit_code, as_json=as_json
    )
    return error.exit_code


def _describe(error: Exception) -> UnforeseenError:
    """Return what a person is told about an exception that the program does not expect."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return UnforeseenError(
        f"{type(error).__name__} in {frame.name}, {Path(frame.filename).name} line {frame.lineno}: "
        f"{error}",
        hint="run 'hashfed fsck': damage can cause this. If it finds none, this is a bug: report "
        "what the same command prints with PYTHONDEVMODE=1",
    )


def _abandon_output() -> None:
    """Discard the output not yet written, so that the interpreter does not try again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
