"""Changes published while nodes serve: the time until a lookup at another node finds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from scripts.benchmarks.lists import Changes, DeltaFiles
from scripts.benchmarks.nodes import LIST, Party
from scripts.benchmarks.plan import Plan, Stage
from scripts.benchmarks.processes import Running
from scripts.benchmarks.results import Book, Results, short
from scripts.benchmarks.signed_csv import hand_over
from scripts.benchmarks.tables import percentiles, section, table
from scripts.benchmarks.workers import Conversation, conversing, work

_FLOOR_COMMITS: Final = 200


@dataclass(frozen=True, slots=True)
class Session:
    """A publisher and a subscriber that serve.

    Attributes:
        publisher: the publisher's process.
        subscriber: the subscriber's.
    """

    publisher: Running
    subscriber: Running
    _live: Conversation

    def publish(self, delta: DeltaFiles) -> dict[str, float]:
        """Publish a change and return what it took, in seconds; see `in_live`."""
        taken: dict[str, float] = self._live.ask(
            "publish", changes=str(delta.changes), probes=delta.probes, gone=delta.gone
        )
        return taken


@contextmanager
def session(publisher: Party, subscriber: Party) -> Iterator[Session]:
    """Serve at both nodes while the block runs."""
    with (
        publisher.serving() as serving,
        subscriber.serving() as following,
        conversing(
            "in_live", publisher=str(publisher.home), subscriber=str(subscriber.home), name=LIST
        ) as live,
    ):
        yield Session(serving, following, live)


# --- measuring --------------------------------------------------------------------------------


def measure(stage: Stage, now: Session, changes: Changes) -> None:
    """Measure from publish to found, for one operation and for a thousand."""
    plan, results = stage.plan, stage.results
    # The first one meets cold caches and does not count.
    now.publish(changes.additions(1))
    singles = [
        changes.retractions(1) if number % 2 else changes.additions(1)
        for number in range(plan.single_ops)
    ]
    for delta in singles:
        _extend(results, "live.1", now.publish(delta))
    for _ in range(plan.batches):
        _extend(results, "live.1000", now.publish(changes.mixed(1_000)))
    for who, running in (("publisher", now.publisher), ("subscriber", now.subscriber)):
        results.put(f"live.{who}.peak", running.peak_mib)
        results.put(f"live.{who}.cpu", running.cpu_s)
    path = str(stage.folder / "commits.db")
    floor = work(stage.folder, "in_sqlite", "commit_floor", path=path, commits=_FLOOR_COMMITS)
    results.extend("commit", floor)
    for delta in singles:
        results.extend("live.csv", [hand_over(stage.tools, delta, stage.table).wall_s])


def _extend(results: Results, name: str, taken: dict[str, float]) -> None:
    for what in ("publish", "found", "after"):
        results.extend(f"{name}.{what}", [taken[what]])


# --- telling ----------------------------------------------------------------------------------


def render(book: Book, plan: Plan) -> list[str]:
    """Return the table on latency."""
    results = book.at(plan.main)
    rows = [
        (
            f"{title}, {len(results.samples[f'{name}.found'])} times",
            *(percentiles(results, f"{name}.{what}") for what in ("publish", "found", "after")),
        )
        for name, title in (
            ("live.1", "1 operation, new or retracted"),
            ("live.1000", "1,000 operations"),
        )
        if results.has(f"{name}.found")
    ]
    if results.has("live.csv"):
        csv, commit = (percentiles(results, name) for name in ("live.csv", "commit"))
        rows.append(("1 operation as signed CSV: sign, verify, apply", "-", csv, "-"))
        rows.append(("one durable commit of one row; either side needs one", "-", commit, "-"))
    use = ", ".join(
        f"{who} {short(results.middle(f'live.{who}.peak'))} MiB and "
        f"{short(results.middle(f'live.{who}.cpu'))} s of processor time"
        for who in ("publisher", "subscriber")
        if results.has(f"live.{who}.peak")
    )
    remark = [f"`serve` took, with the changes of the table before: {use}."] if use else []
    headers = (
        "p50 / p99",
        "`publish` itself",
        "start of `publish` to found",
        "end of `publish` to found",
    )
    return section(
        "From `publish` to found by `lookup` at a live peer", table(headers, rows), remark
    )
