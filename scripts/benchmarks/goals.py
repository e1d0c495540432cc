"""The goals, and whether a run has reached them, each with its floor and its alternative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from scripts.benchmarks.kinds import SINGLE
from scripts.benchmarks.loading import PROCESSES
from scripts.benchmarks.plan import Plan
from scripts.benchmarks.results import Book, Results, milliseconds, short, spread
from scripts.benchmarks.tables import section, table

_MAIN: Final = 1_000_000
_LARGE: Final = 10_000_000
_MEMORY_MIB: Final = 300
"""The goal for the peak memory of each process."""
_FLAT: Final = 1.3
"""How much more memory ten times the size may take and still count as flat: caches fill up."""

_DIGEST_BYTES: Final = 32
_MANY: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One goal and what was measured.

    Attributes:
        what: what is measured.
        bound: the goal.
        least: whether the bound is a minimum, not a maximum.
        unit: the unit of the bound and of what was measured.
        floor: the least that it could cost here.
        alternative: what a user would get without this program.
        ours: the result of this program, in the same terms.
        measured: the values that are compared with the bound, one for each round.
        wanted: the size for which the goal is set; None for any.
        size: the size that was measured.
    """

    what: str
    bound: float
    least: bool = False
    unit: str = ""
    floor: str = "-"
    alternative: str = "-"
    ours: str = "-"
    measured: Sequence[float] = ()
    wanted: int | None = None
    size: int | None = None

    def row(self) -> list[str]:
        """Return the row of the table."""
        word = "at least" if self.least else "at most"
        got = spread(list(self.measured), short, self.unit) if self.measured else "-"
        bound = f"{word} {self.bound:g}{self.unit}"
        return [self.what, bound, self.floor, self.alternative, self.ours, got, self._verdict()]

    def _verdict(self) -> str:
        if not self.measured:
            return "not measured"
        if self.wanted is not None and self.size != self.wanted:
            return f"none: set for {short(self.wanted)} entries"
        value = median(self.measured)
        if (value >= self.bound) if self.least else (value <= self.bound):
            return "met"
        off = 1 - value / self.bound if self.least else value / self.bound - 1
        return f"**missed** by {off:.0%}"


def render(book: Book, plan: Plan) -> list[str]:
    """Return the table of goals."""
    large = max(plan.sizes)
    main, most = book.at(plan.main), book.at(large)
    goals = [
        *(
            goal
            for size in dict.fromkeys((plan.main, large))
            for goal in _loading(book.at(size), size, is_main=size == plan.main)
        ),
        _git(main, plan.main),
        _big(main, plan),
        _publishing(main, plan.main),
        *_memory(main, most, large),
        *_bytes(book, main),
        _small_delta(most, large),
        *_latency(book, main),
        *_lookups(main, most, large, plan),
    ]
    headers = ("what", "goal", "floor", "alternative", "this program", "measured", "verdict")
    return section("Goals", table(headers, (goal.row() for goal in goals)))


def _a_second(results: Results, name: str) -> str:
    return f"{spread(results.values(name), short)}/s" if results.has(name) else "-"


def _seconds(results: Results, name: str) -> str:
    return f"{spread(results.values(name), short)} s" if results.has(name) else "-"


def _ms(values: Sequence[float]) -> str:
    return spread(list(values), milliseconds, " ms") if values else "-"


def _beside(text: str, remark: str) -> str:
    return text if text == "-" else f"{text} ({remark})"


def _loading(results: Results, size: int, *, is_main: bool) -> list[Goal]:
    goals = [
        ("import_ordered", "sorted list", 1.0, _MAIN if is_main else _LARGE),
        ("import_shuffled", "list in its owner's order", 3.0, _LARGE),
    ]
    return [
        Goal(
            what=f"first sync of {short(size)} entries against `.import` of the {title}",
            bound=bound,
            least=True,
            unit=" x",
            floor=_a_second(results, "floor"),
            alternative=_a_second(results, name),
            ours=_a_second(results, "sync.accept"),
            measured=results.ratios("sync.accept", name),
            wanted=wanted,
            size=size,
        )
        # For the owner's order, there is only a goal for the large list.
        for name, title, bound, wanted in (goals[:1] if is_main else goals)
    ]


def _git(results: Results, size: int) -> Goal:
    floor = [2 * size / rate for rate in results.values("floor")]
    return Goal(
        what=f"publish and first sync of {short(size)} against git with signed commits",
        bound=3.0,
        least=True,
        unit=" x",
        floor=f"{spread(floor, short)} s (appended twice)" if floor else "-",
        alternative=_seconds(results, "git.whole"),
        ours=_seconds(results, "whole"),
        measured=results.ratios("git.whole", "whole"),
        wanted=_MAIN,
        size=size,
    )


def _big(results: Results, plan: Plan) -> Goal:
    floor = [plan.big_delta / rate for rate in results.values("floor")]
    return Goal(
        what=f"{short(plan.big_delta)} operations into {short(plan.main)}, from the file to found, "
        "against signed CSV",
        bound=1.0,
        least=True,
        unit=" x",
        floor=_ms(floor),
        alternative=_ms(results.values("big.csv")),
        ours=_ms(results.values("big.all")),
        measured=results.ratios("big.csv", "big.all"),
        wanted=_MAIN,
        size=plan.main,
    )


def _publishing(results: Results, size: int) -> Goal:
    by_git = [size / seconds for seconds in results.values("git.publish")]
    return Goal(
        what=f"publish {short(size)} from a file, against the append floor",
        bound=0.5,
        least=True,
        unit=" x",
        floor=_a_second(results, "floor"),
        alternative=f"{spread(by_git, short)}/s (git)" if by_git else "-",
        ours=_a_second(results, "published"),
        measured=results.ratios("published", "floor"),
        wanted=_MAIN,
        size=size,
    )


def _memory(main: Results, most: Results, large: int) -> list[Goal]:
    titles = {f"{name}.peak": title for name, title in PROCESSES}
    names = [name for name in titles if main.has(name) and most.has(name)]
    if not names:
        return []
    peaks = {name: most.middle(name) for name in names}
    worst = max(peaks, key=lambda name: peaks[name])
    growth = {name: peaks[name] / main.middle(name) for name in names}
    grown = max(growth, key=lambda name: growth[name])
    plain = "import_ordered.peak"
    return [
        Goal(
            what=f"peak memory of each process at {short(large)}",
            bound=_MEMORY_MIB,
            unit=" MiB",
            floor="64 MiB (page cache)",
            alternative=f"{most.middle(plain):.0f} MiB (the shell)",
            ours=f"{titles[worst]}",
            measured=[peaks[worst]],
            wanted=_LARGE,
            size=large,
        ),
        Goal(
            what=f"the same against {short(_MAIN)}: flat",
            bound=_FLAT,
            unit=" x",
            floor="1 x",
            alternative=f"{most.middle(plain) / main.middle(plain):.2f} x",
            ours=f"{titles[grown]}",
            measured=[growth[grown]],
            wanted=_LARGE,
            size=large,
        ),
    ]


def _bytes(book: Book, main: Results) -> list[Goal]:
    single = book.of(SINGLE)
    sent = f"{single.middle('csv.bytes'):.1f} (CSV)" if single.has("csv.bytes") else "-"
    floor = f"{main.middle('floor.bytes'):.1f}" if main.has("floor.bytes") else "-"
    table_bytes = main.has("import_ordered.bytes")
    kept = [max(pair) for pair in zip(*map(main.values, _STORES), strict=True)]
    return [
        Goal(
            what="bytes on the wire for a single SHA-256 entry",
            bound=40,
            floor=f"{_DIGEST_BYTES} (the hash)",
            alternative=sent,
            ours=spread(single.values("wire"), short),
            measured=single.values("wire"),
        ),
        Goal(
            what="database bytes for a single SHA-256 entry",
            bound=150,
            floor=floor,
            alternative=f"{main.middle('import_ordered.bytes'):.1f}" if table_bytes else "-",
            ours=spread(kept, short),
            measured=kept,
        ),
    ]


_STORES: Final = ("publisher.bytes", "subscriber.bytes")


def _small_delta(most: Results, large: int) -> Goal:
    return Goal(
        what=f"1,000 operations into {short(large)} against into 1,000, from `publish` to found",
        bound=2.0,
        unit=" x",
        floor=_beside(_ms(most.values("delta.small.found")), "into 1,000"),
        alternative=_beside(_ms(most.values("delta.csv")), "signed CSV"),
        ours=_ms(most.values("delta.found")),
        measured=most.ratios("delta.found", "delta.small.found"),
        wanted=_LARGE,
        size=large,
    )


def _latency(book: Book, main: Results) -> list[Goal]:
    rows = []
    for percent, bound in ((50, 20), (99, 100)):
        floor, csv, ours = (
            [results.percentile(name, percent)] if results.has(name) else []
            for results, name in (
                (main, "commit"),
                (main, "live.csv"),
                (main, "live.1.found"),
            )
        )
        rows.append(
            Goal(
                what=f"from `publish` to found at a live subscriber, p{percent}",
                bound=bound,
                unit=" ms",
                floor=f"{_ms([2 * value for value in floor])} (two commits)" if floor else "-",
                alternative=_beside(_ms(csv), "signed CSV"),
                ours=_ms(ours),
                measured=[value * 1000 for value in ours],
            )
        )
    name = f"fanout.{_MANY}.1.found"
    many = [book.once.percentile(name, 99)] if book.once.has(name) else []
    rows.append(
        Goal(
            what=f"the same with {_MANY} subscribers, p99",
            bound=1_000,
            unit=" ms",
            floor=rows[-1].floor,
            alternative=rows[-1].alternative,
            ours=_ms(many),
            measured=[value * 1000 for value in many],
        )
    )
    return rows


def _lookups(main: Results, most: Results, large: int, plan: Plan) -> list[Goal]:
    def worst(results: Results, *names: str) -> list[float]:
        return [max(results.percentile(name, 99) for name in names)] if results.has(*names) else []

    ours = worst(most, "lookup.node.hit", "lookup.node.miss")
    busy = worst(main, "busy.node")
    by_number = "lookup.floor.hit"
    one_by_one = (
        f"{short(1 / most.percentile(by_number, 50))}/s (by number)" if most.has(by_number) else "-"
    )
    return [
        Goal(
            what=f"exact lookup in process among {short(large)}, p99",
            bound=1,
            unit=" ms",
            floor=_beside(_ms(worst(most, "lookup.floor.hit")), "by number"),
            alternative=_beside(
                _ms(worst(most, "lookup.table.hit", "lookup.table.miss")), "the table"
            ),
            ours=_ms(ours),
            measured=[value * 1000 for value in ours],
            wanted=_LARGE,
            size=large,
        ),
        Goal(
            what=f"bulk lookup of {short(min(plan.bulk, large))} from stdin among {short(large)}",
            bound=50_000,
            least=True,
            unit="/s",
            floor=one_by_one,
            alternative=_beside(_a_second(most, "bulk.plain"), "the shell"),
            ours=_a_second(most, "bulk"),
            measured=most.values("bulk"),
            wanted=_LARGE,
            size=large,
        ),
        Goal(
            what="lookups during a bulk load, p99",
            bound=10,
            unit=" ms",
            floor=_beside(_ms(worst(main, "lookup.node.hit")), "no load"),
            alternative=_beside(_ms(worst(main, "busy.table")), "the table"),
            ours=_ms(busy),
            measured=[value * 1000 for value in busy],
        ),
    ]
