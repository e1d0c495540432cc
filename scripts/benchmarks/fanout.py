"""One publisher and many live subscribers: how long until the last one has a change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from scripts.benchmarks.lists import Changes, DeltaFiles, write_list
from scripts.benchmarks.live import Session, session
from scripts.benchmarks.nodes import LIST
from scripts.benchmarks.plan import Plan, Stage
from scripts.benchmarks.results import Book, Results, milliseconds, short
from scripts.benchmarks.tables import percentiles, section, table
from scripts.benchmarks.workers import Conversation, conversing

_LIST: Final = 100_000


def measure(stage: Stage, book: Book) -> None:
    """Measure changes with more and more subscribers: one full node, the others only streams."""
    plan = stage.plan
    files = write_list(stage.folder / "list", min(plan.main, _LIST))
    coalition = stage.make_nodes()
    coalition.publish([files.changes])
    subscriber = coalition.join("subscriber")
    coalition.sync(subscriber)
    members = [str(member) for member in coalition.enroll(max(plan.subscribers))]
    invitation = str(coalition.write_invitation())
    changes = Changes(stage.folder / "changes", files.count)
    for count in plan.subscribers:
        stage.say(f"live subscribers: {count}")
        with (
            session(coalition.publisher, subscriber) as now,
            conversing(
                "in_streams", invitation=invitation, name=LIST, members=members[:count]
            ) as streams,
        ):
            opened = streams.ask("open")
            if opened["open"] < count:
                book.skipped.append(
                    f"{count} live subscribers: the publisher took {opened['open']} streams; "
                    f"{'; '.join(opened['failures'])}"
                )
                continue
            # The first one meets cold caches and does not count.
            now.publish(changes.additions(1))
            for ops, times in ((1, plan.fanout_ops), (1_000, plan.fanout_batches)):
                deltas = (changes.additions(ops) for _ in range(times))
                _publish_all(stage.results, f"fanout.{count}.{ops}", now, streams, deltas, times)
            stage.results.put(f"fanout.{count}.peak", now.publisher.peak_mib)


def _publish_all(
    results: Results,
    name: str,
    now: Session,
    streams: Conversation,
    deltas: Iterable[DeltaFiles],
    times: int,
) -> None:
    size = streams.ask("head")
    cpu = now.publisher.cpu_s
    for delta in deltas:
        taken = now.publish(delta)
        size += 1
        after = [at - taken["started"] for at in streams.ask("arrivals", size=size)]
        results.extend(f"{name}.found", [taken["found"]])
        results.extend(f"{name}.streams", after)
        results.extend(f"{name}.last", [max(after)])
    results.put(f"{name}.cpu", (now.publisher.cpu_s - cpu) / times)


# --- telling ----------------------------------------------------------------------------------


def render(book: Book, plan: Plan) -> list[str]:
    """Return the table on many subscribers."""
    results = book.once
    rows = []
    for count in plan.subscribers:
        for ops in (1, 1_000):
            name = f"fanout.{count}.{ops}"
            if results.has(f"{name}.cpu"):
                rows.append(
                    (
                        f"{count}",
                        f"{ops:,}",
                        *(
                            percentiles(results, f"{name}.{what}")
                            for what in ("found", "streams", "last")
                        ),
                        f"{milliseconds(results.middle(f'{name}.cpu'))} ms",
                        short(results.middle(f"fanout.{count}.peak")),
                    )
                )
    return section(
        "Many live subscribers of one publisher",
        table(
            (
                "streams, beside one full subscriber",
                "operations",
                "start of `publish` to found at the full subscriber, p50 / p99",
                "to arrived at a stream",
                "to arrived at the last stream",
                "CPU of `serve` per delta",
                "peak MiB of `serve`",
            ),
            rows,
        ),
    )
