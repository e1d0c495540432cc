"""Power cuts: the disk as it may be after one, at any moment of real commands.

Commands are recorded call by call (`stories`). From the records, images of the whole folder are
made, as a power cut may leave it (`disk`). Each image is checked, and the node goes on from it.
What was visible at the last sync of anything counts as announced, because other processes may have
acted on it. So an image must hold what was visible at the sync before the cut, or what is visible
at the next one, and nothing in between.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from federation.errors import FederationError
from node.errors import NodeError
from node.home import Home
from node.store.sqlite import sqlite3
from tests.faults import strace
from tests.faults.aftermath import Aftermath, require_beginning
from tests.faults.disk import Disk, Image, Sync
from tests.faults.holdings import Holdings, read_holdings
from tests.faults.later import later_version
from tests.faults.nodes import Node
from tests.faults.part import Broken, Part, Share
from tests.faults.recording import recording
from tests.faults.report import Outcome
from tests.faults.running import HarnessError
from tests.faults.stories import ALONE, SUBSCRIBER, Step, Tape, subscriber
from tests.harness import forkserver

_MEMORY: Final = Path("/dev/shm")  # images are written there by the thousand
_BROKEN: Final = (Broken, NodeError, FederationError, sqlite3.Error)


def _try_cases(share: Share) -> Generator[Outcome, None, None]:
    why = strace.why_not()
    if why:
        for case in share.cases:
            yield Outcome(case, skipped=why)
        return
    with recorded(share) as lives:
        # Each command gets as many cuts as any other, although one that makes a store writes much
        # more than one that publishes.
        steps = [(life, step) for life in lives for step in life.steps]
        cuts: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for case in share.cases:
            choices = share.random(case)
            life, step = choices.choice(steps)
            cuts[id(life)].append((choices.randint(step.start + 1, step.stop), case))
        for life in lives:
            yield from life.cut(share, sorted(cuts[id(life)]))


@contextmanager
def recorded(share: Share, *names: str) -> Iterator[list[Life]]:
    """Record the named stories, or all of them; a node that is followed goes on serving."""
    with ExitStack() as stack:
        memory = str(_MEMORY) if _MEMORY.is_dir() else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory))).resolve()
        modules = ("tests.faults.leaving", "tests.faults.later", *share.planted)
        recorder = stack.enter_context(recording(folder, folder / "trace", *modules))
        lives = []
        for name in names or (*ALONE, SUBSCRIBER):
            tape = Tape(name, folder / name, recorder)
            if name == SUBSCRIBER:
                peer = Node(folder, "hotline.example", stack.enter_context(forkserver.running()))
                stack.callback(peer.kill)
                subscriber(tape, peer)
            else:
                ALONE[name](tape)
            lives.append(Life(tape))
        yield lives


@dataclass(frozen=True)
class _View:
    """What was visible when something was synced.

    Attributes:
        at: how many operations were done.
        holdings: what the node's folder held.
    """

    at: int
    holdings: Holdings


class Life:
    """A recorded life of a node, with what was visible at each moment.

    Attributes:
        steps: the commands that changed anything on the disk.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._folder = tape.root.with_name(f"{tape.name}-images")
        self._folder.mkdir()
        self.steps = [step for step in tape.steps if step.start < step.stop]
        ends = {step.stop for step in tape.steps}
        disk = Disk(str(tape.root))
        self._views: list[_View] = []
        for at, operation in enumerate(tape.operations, start=1):
            disk.apply(operation)
            if at in ends or isinstance(operation, Sync):
                _lay_out(disk.now(), self._folder / "now")
                self._views.append(_View(at, _read(self._folder / "now")))
                shutil.rmtree(self._folder / "now")
        if disk.now() != _read_folder(tape.root):
            raise HarnessError(f"{tape.name}: what was recorded is not what is there")
        # Once something was committed and released, its positions must never have other content.
        seen: frozenset[tuple[str, int, str]] = frozenset()
        self._released = []
        for view in self._views:
            seen |= view.holdings.released
            self._released.append(seen)

    def cut(self, share: Share, cuts: list[tuple[int, int]]) -> Generator[Outcome, None, None]:
        """Cut the power at these moments, in ascending order; each is a case."""
        disk = Disk(str(self._tape.root))
        aftermath = Aftermath(self._tape)
        done = 0
        place = share if share.keep else replace(share, folder=self._folder)
        for at, case in cuts:
            for operation in self._tape.operations[done:at]:
                disk.apply(operation)
            done = at
            choices = random.Random(f"{share.seed} {case} {at}")  # repeatable
            hit: Counter[str] = Counter()
            image = disk.image(choices, hit)
            if not hit:
                hit["nothing lost"] += 1
            step = next(step for step in self.steps if at <= step.stop)
            hit[f"during {step.name}"] += 1
            violations: tuple[str, ...] = ()
            try:
                with place.scratch(case) as scratch:
                    if share.keep:
                        _lay_out(image, scratch / "as-it-was-left")
                    _lay_out(image, scratch / "image")
                    with later_version() if step.later else nullcontext():
                        self._examine(at, step, scratch / "image", aftermath)
            except _BROKEN as error:
                done_by = self._tape.operations[at - 1]
                where = f"{self._tape.name}, {step.name}, after operation {at} ({_name(done_by)})"
                violations = (f"{where}: {type(error).__name__}: {error}",)
            yield Outcome(case, hit=hit, violations=violations)

    def _examine(self, at: int, step: Step, folder: Path, aftermath: Aftermath) -> None:
        """Check what a power cut has left, and go on from there.

        Raises:
            Broken: a promise did not hold.
        """
        told = (step.after,) if at == step.stop else (step.before, step.after)
        home = Home(folder / "node")
        if not all(one.made for one in told):
            require_beginning(home)
            return
        number = bisect_right(self._views, at, key=lambda view: view.at) - 1
        before = self._views[number]
        after = before if before.at == at else self._views[number + 1]
        found = _read(folder)
        if not home.store.exists():
            # `restore` was interrupted between two stores, and is run again below.
            found = replace(found, aside=before.holdings.aside)
        lost = [*found.losses(before.holdings, after.holdings)]
        if lost:
            raise Broken(f"what was visible is not there: {'; '.join(lost)}")
        aftermath.go_on(home, folder / "backups", told, self._released[number], later=step.later)
        # If the store is migrated only now, it is the store from before that is put aside.
        aside = {before.holdings.aside, after.holdings.aside, (before.holdings.store,)}
        kept = _read(folder).aside
        if kept not in aside:
            raise Broken(f"what was put aside is {kept}, and none of {aside}")


def _name(operation: object) -> str:
    path = Path(getattr(operation, "path", ""))
    return f"{type(operation).__name__} of {path.name}"


def _read(folder: Path) -> Holdings:
    return read_holdings(Home(folder / "node"), folder / "backups")


def _read_folder(folder: Path) -> Image:
    """Return everything in a folder, except shared memory and sockets."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith("-shm") and not path.is_socket()
    }


def _lay_out(image: Image, folder: Path) -> None:
    """Write an image into a new folder."""
    folder.mkdir()
    for path, content in image.items():
        if content is None:
            (folder / path).mkdir(mode=0o700)
        else:
            (folder / path).write_bytes(content)
            (folder / path).chmod(0o600)


PART: Final = Part(
    name="powerloss",
    summary="cuts the power at any moment of real commands, and loses what was not synced",
    count=10_000,
    run=_try_cases,
)
