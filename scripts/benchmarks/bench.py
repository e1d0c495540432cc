"""A whole run: rounds of everything that is compared, and everything that is measured once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scripts.benchmarks import deltas, fanout, kinds, live, loading, lookups, series, snapshots
from scripts.benchmarks.git import Git
from scripts.benchmarks.lists import Changes, ListFiles, write_list
from scripts.benchmarks.plan import Plan, Stage, Tools
from scripts.benchmarks.results import Book, Results, short
from scripts.benchmarks.workers import Conversation, conversing

_AT_SIZES: Final = ("load", "git", "lookup", "delta", "live")
"""The parts that are measured at several sizes; all of them need what `load` measures."""


@dataclass(slots=True)
class Bench:
    """A run.

    Attributes:
        plan: how much is measured.
        tools: what is compared with.
        folder: where files go.
        say: tells the person what is going on.
        book: where figures go.
    """

    plan: Plan
    tools: Tools
    folder: Path
    say: Callable[[str], None]
    book: Book = field(default_factory=Book)
    _commands: Conversation = field(init=False)

    def run(self) -> None:
        """Measure everything."""
        with conversing("in_commands") as self._commands:
            self._run()

    def _run(self) -> None:
        self.book.once.start_round()
        sizes = self.plan.sizes if self.plan.has(*_AT_SIZES) else ()
        rounds = [size for size in sizes if size <= self.plan.main]
        with self._lists(rounds) as files:
            for number in range(self.plan.rounds):
                title = f"round {number + 1} of {self.plan.rounds}"
                for size in rounds:
                    self._measure_size(title, files[size])
                self._measure_kinds(title)
        for size in sizes:
            if size > self.plan.main:
                with self._lists([size]) as files:
                    self._measure_size("once", files[size])
        self._measure_once()

    @contextmanager
    def _lists(self, sizes: list[int]) -> Iterator[dict[int, ListFiles]]:
        """Write lists, and remove them after the block."""
        files = {}
        for size in sizes:
            self.say(f"writing a list of {short(size)} entries")
            files[size] = write_list(self.folder / f"list-{size}", size)
        yield files
        for size in sizes:
            shutil.rmtree(self.folder / f"list-{size}")

    @contextmanager
    def _stage(self, results: Results) -> Iterator[Stage]:
        folder = self.folder / "stage"
        folder.mkdir()
        try:
            yield Stage(
                plan=self.plan,
                tools=self.tools,
                folder=folder,
                results=results,
                commands=self._commands,
                say=self.say,
            )
        finally:
            shutil.rmtree(folder)

    def _measure_size(self, title: str, files: ListFiles) -> None:
        results = self.book.at(files.count)
        results.start_round()
        with self._stage(results) as stage:
            say = f"{title}, {short(files.count)} entries"
            self._measure_list(stage, files, say)

    def _measure_list(self, stage: Stage, files: ListFiles, title: str) -> None:
        plan, count = self.plan, files.count
        # Long comparisons are left out for the other sizes.
        is_main, is_large = count == plan.main, count >= plan.main
        self.say(f"{title}: floor, .import")
        loading.load_otherwise(stage, files)
        git: Git | None = None
        if is_main and plan.has("git"):
            self.say(f"{title}: git")
            git = loading.load_by_git(stage, files)
        self.say(f"{title}: import, publish, sync")
        coalition = stage.make_nodes()
        publisher, subscriber = coalition.publisher, coalition.join("subscriber")
        loading.publish(stage, publisher, files)
        loading.sync(stage, coalition, subscriber, count)
        if plan.has("lookup"):
            self.say(f"{title}: lookups")
            lookups.measure(stage, subscriber, count)
            if is_large:
                lookups.measure_bulk(stage, subscriber, count)
        changes = Changes(stage.folder / "changes", count)
        if plan.has("delta") or (is_main and plan.has("live")):
            self.say(f"{title}: changes")
            with live.session(publisher, subscriber) as now:
                if plan.has("delta"):
                    deltas.measure(stage, now, changes, beside_small=is_large)
                if is_main and plan.has("delta"):
                    deltas.measure_big(stage, now, changes, git)
                if is_main and plan.has("live"):
                    live.measure(stage, now, changes)
        if is_main and plan.has("lookup"):
            self.say(f"{title}: lookups during a load")
            lookups.measure_busy(stage, coalition, subscriber, count, changes)

    def _measure_kinds(self, title: str) -> None:
        if not self.plan.has("kinds"):
            return
        for name in self.plan.kinds:
            kind = kinds.KINDS[name]
            self.say(f"{title}: {kind.title}")
            self.book.of(name).start_round()
            with self._stage(self.book.of(name)) as stage:
                kinds.measure(stage, kind)

    def _measure_once(self) -> None:
        plan, once = self.plan, self.book.once
        if plan.has("kinds"):
            if kinds.REAL_LIST.exists():
                self.say("a real list")
                self.book.of(kinds.REAL).start_round()
                with self._stage(self.book.of(kinds.REAL)) as stage:
                    kinds.measure_real(stage)
            else:
                self.book.skipped.append("the real list: its history is not beside this checkout")
        if plan.has("series"):
            self.say(f"{plan.series} changes one after the other")
            with self._stage(once) as stage:
                series.measure(stage)
        if plan.has("fanout"):
            with self._stage(once) as stage:
                fanout.measure(stage, self.book)
        if plan.has("snapshot"):
            self.say("lists with a history")
            with self._stage(once) as stage:
                snapshots.measure(stage)
