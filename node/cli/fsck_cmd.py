"""The command that checks a store, and repairs it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import click

from node.cli import output
from node.cli.context import Context, json_option, pass_context
from node.cli.progress import progress
from node.clock import format_ms
from node.config import LogLevel
from node.errors import DamageError
from node.fsck import check as checks
from node.fsck import journal
from node.fsck.journal import Journal
from node.store import damage as store_damage
from node.store.connection import Store
from node.store.damage import Damage, DamageKind, Findings
from node.system import locks
from node.telemetry import logs

if TYPE_CHECKING:
    from node.repair.repair import Repaired

_LOCK_SECONDS: Final = 30.0
"""How long to wait for the background scrub, which releases the lock between two steps."""

_NOTE_SECONDS: Final = 2.0


@click.command("fsck")
@click.option(
    "--repair",
    "wanted",
    is_flag=True,
    help="Rebuild what is damaged, from the signed bytes here and at peers.",
)
@click.option("--from-start", is_flag=True, help="Start over, even if a check was interrupted.")
@json_option
@pass_context
def fsck(context: Context, wanted: bool, from_start: bool) -> None:
    """Check everything that is stored against what was signed.

    Every signature, leaf, root, body, bucket, operation and index row is derived again from the
    signed bytes. Without --repair, nothing is changed. A check that was interrupted continues
    where it stopped. Exit code: 12 when anything differs; with --repair, when anything is still
    damaged.
    """
    if wanted:
        _repair(context)
        return
    home = context.home
    with locks.hold(home.lock_file("fsck"), "hashfed fsck", wait_seconds=_LOCK_SECONDS):
        if from_start:
            journal.forget(home.fsck_journal)
        began = Journal.load(home.fsck_journal)
        if began is not None:
            context.remark(f"continuing the check that began at {format_ms(began.began_ms)}")
        found, lists = _check(context)
        journal.forget(home.scrub_journal)
    if context.as_json:
        output.emit_json(
            {"ok": not found, "lists": lists, "damages": [item.describe() for item in found]}
        )
    if found:
        raise DamageError(
            f"{len(found)} differences from what was signed",
            hint="nothing was changed: stop 'hashfed serve' and run 'hashfed fsck --repair'",
        )
    if not context.as_json:
        leaves = sum(lists.values())
        click.echo(f"sound: {leaves} deltas and buckets of {len(lists)} lists are what was signed")


def _check(context: Context) -> tuple[list[Damage], dict[str, int]]:
    """Check the store, print what is found, and record it at once, so that answers respect it."""
    home = context.home
    path = home.store.resolve()
    lists: dict[str, int] = {}
    found: list[Damage] = []
    noted = 0.0
    with progress("checking", quiet=context.quiet) as bar, _opened(context) as store:

        def report(origin: str, done: int, total: int) -> None:
            lists[origin] = total
            bar.update(done, total, origin)

        damages: Iterable[Damage] = (
            [store]
            if isinstance(store, Damage)
            else checks.fsck(
                store,
                on_progress=report,
                journal=home.fsck_journal,
                now_ms=context.clock.now_ms(),
            )
        )
        for damage in damages:
            found.append(damage)
            if time.monotonic() > noted + _NOTE_SECONDS:
                store_damage.add(path, found)
                noted = time.monotonic()
            if not context.as_json:
                _print(damage)
    store_damage.store(path, Findings(ended_ms=context.clock.now_ms(), damages=tuple(found)))
    return found, lists


@contextmanager
def _opened(context: Context) -> Iterator[Store | Damage]:
    """Open the store. If damage keeps it from being opened, yield that damage instead."""
    with ExitStack() as stack:
        opened: Store | Damage
        try:
            opened = stack.enter_context(context.reader())
        except DamageError as error:
            opened = Damage(kind=DamageKind.FILE, origin="", position=None, message=str(error))
        yield opened


def _print(damage: Damage) -> None:
    at = "" if damage.position is None else f" position {damage.position}"
    op = "" if damage.row is None else f" op {damage.row}"
    click.echo(f"{damage.origin or 'store'}{at}{op}: {damage.kind}: {output.safe(damage.message)}")


# --- repairing --------------------------------------------------------------------------------


def _repair(context: Context) -> None:
    from node.cli.network import unchecked_identity  # noqa: PLC0415
    from node.repair import repair  # noqa: PLC0415  # with the network: too much for a check
    from node.store.orgs import Peer  # noqa: PLC0415
    from node.sync.repair_source import PeerSource  # noqa: PLC0415

    home, config = context.home, context.config()
    logs.configure(LogLevel.ERROR, config.log.format)
    identity = unchecked_identity(context)
    with ExitStack() as stack:
        for name in ("serve", "publish"):
            stack.enter_context(locks.hold(home.lock_file(name), "hashfed fsck --repair"))
        stack.enter_context(locks.hold(home.lock_file("fsck"), "hashfed fsck --repair"))
        bar = stack.enter_context(progress("repairing", quiet=context.quiet))

        def connect(peers: Sequence[Peer]) -> PeerSource:
            return stack.enter_context(
                PeerSource(peers, identity, idle_timeout_seconds=config.sync.idle_timeout_seconds)
            )

        repaired = repair.repair(
            home,
            config.node.org,
            connect,
            clock=context.clock,
            on_progress=lambda what, done, total: bar.update(done, total, what),
        )
    _report(context, repaired)


def _report(context: Context, repaired: Repaired) -> None:
    left = repaired.left
    if context.as_json:
        output.emit_json(
            {
                "ok": not left,
                "damages": [item.describe() for item in repaired.damages],
                "fetched": [
                    {
                        "list": item.origin,
                        "position": item.position,
                        "what": item.what,
                        "peer": item.peer,
                    }
                    for item in repaired.fetched
                ],
                "refused": list(repaired.refused),
                "failed": list(repaired.failed),
                "left": [item.describe() for item in left],
                "replaced": None if repaired.aside is None else str(repaired.aside),
            }
        )
    else:
        for item in repaired.fetched:
            at = "" if item.position is None else f" position {item.position}"
            click.echo(f"{item.origin}{at}: {item.what} fetched from {item.peer}, verified")
        for text in (*repaired.refused, *repaired.failed):
            click.echo(output.safe(text))
        for damage in left:
            _print(damage)
    if repaired.aside is not None:
        context.remark(f"the damaged store is kept as {repaired.aside}")
    if left:
        kept = "" if repaired.aside is not None else ": nothing was changed"
        raise DamageError(
            f"{len(left)} of {len(repaired.damages)} damages could not be repaired{kept}",
            hint="try again when a peer that has these lists can be reached, or restore a backup. "
            "Until then, nothing is answered from a damaged list",
        )
    if not context.as_json:
        if repaired.damages:
            click.echo(f"repaired: {len(repaired.damages)} damages, all verified again")
        else:
            click.echo("sound: nothing to repair")


COMMANDS = (fsck,)
