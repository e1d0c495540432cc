"""Shows a coalition of three organizations at work on this machine. See `scripts/demo`.

This module computes from the input alone what must be in force: it applies one operation after the
other to a dictionary. No signature, log, store or network is part of that. It is long because a
person who wants to know what is claimed, and how, reads it from top to bottom.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shlex
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, TypeVar

from federation.entry import EntryId, Operation, OpKind
from federation.errors import FederationError
from federation.names import Origin
from node.clock import SystemClock
from node.errors import NodeError
from node.formats.csvfile import CsvReader, merge_labels
from node.formats.jsonl import format_change, parse_change
from node.query import lookup
from node.store import lists
from node.store.connection import Store
from tests.harness.coalition import Coalition
from tests.harness.node import Node, Result, Running, unused_port
from tests.harness.signals import end_on_signals

_LIST: Final = "known"
_FEWEST_PARTS: Final = 6
"""The fewest change files for the story: one before anyone follows, some live, two in the crash."""
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_WAIT_SECONDS: Final = 30.0
_WIDTH: Final = 92
_LOG_LINES: Final = 15
_SETTINGS: Final = {"HASHFED_SYNC_INTERVAL_SECONDS": "2"}
"""A node of the demonstration tries again after at most two seconds, not five minutes."""

_EXIT_FAILED: Final = 1
_EXIT_UNREACHABLE: Final = 75
_EXIT_INTERRUPTED: Final = 130

State = dict[EntryId, Operation]
T = TypeVar("T")


class DemoError(Exception):
    """The demonstration cannot go on; the message is for the person who started it."""


# --- what the person who watches sees ---------------------------------------------------------


class Teller:
    """Tells the story on stdout: chapters, commands as they are run, what they print, claims.

    Attributes:
        claims: what was shown to be true, in order.
    """

    def __init__(self, *, pause: bool) -> None:
        """Start telling; with `pause`, wait for Enter before each chapter on a terminal."""
        terminal = sys.stdout.isatty()
        self.claims: list[str] = []
        self._pause = pause and terminal and sys.stdin.isatty()
        dumb = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._colors = terminal and not dumb
        self._chapters = 0

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        if self._pause and self._chapters:
            input(self._paint("2", "\n   (press Enter to go on) "))
        self._chapters += 1
        self._print(f"\n{self._paint('1', f'{self._chapters}. {title}')}")

    def say(self, text: str) -> None:
        """Tell something."""
        self._print(textwrap.fill(text, _WIDTH, initial_indent="   ", subsequent_indent="   "))

    def command(self, line: str) -> None:
        """Show a command that is being run."""
        self._print(f"   {self._paint('36', '$ ' + line)}")

    def output(self, lines: Iterable[str], most: int = 40) -> None:
        """Show what a command printed."""
        shown = list(lines)
        more = [f"... {len(shown) - most} more lines"] if len(shown) > most else []
        for line in [*shown[:most], *more]:
            self._print(f"     {self._paint('2', line)}")

    def claim(self, text: str, *, holds: bool, otherwise: str = "") -> None:
        """Claim that something is true.

        Raises:
            DemoError: it is not true.
        """
        if not holds:
            self._print(f"   {self._paint('31', 'FAILED')} {text}")
            raise DemoError(f"not true: {text}" + (f" ({otherwise})" if otherwise else ""))
        self.claims.append(text)
        self._print(f"   {self._paint('32', 'ok')} {text}")

    def close(self, seconds: float) -> None:
        """End the story with what was shown."""
        self._print(f"\n{self._paint('1', 'What was shown')}")
        for text in self.claims:
            self._print(f"   {self._paint('32', 'ok')} {text}")
        self._print(f"\n   {len(self.claims)} claims hold, {seconds:.1f} s")

    def _paint(self, color: str, text: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self._colors else text

    @staticmethod
    def _print(text: str) -> None:
        # Write at once, even into a pipe: somebody is watching.
        print(text, flush=True)


# --- the nodes --------------------------------------------------------------------------------


class Member(Node):
    """One organization's node, whose commands are shown.

    Attributes:
        name: the name of its folder.
    """

    settings = _SETTINGS

    def __init__(self, org: str, folder: Path, teller: Teller) -> None:
        super().__init__(folder, org, port=unused_port(), init=False)
        self.name = self.home.name
        self._teller = teller
        self._store: Store | None = None

    def line(self, *args: str) -> str:
        """Return a command line of this node as a person would type it."""
        return shlex.join(["hashfed", "--home", self.name, *args])

    def run(self, *args: str, expect: int = 0) -> str:
        """Run a command and return what it printed.

        Raises:
            DemoError: it ended with another code than expected.
        """
        return self.read(Running(self, args, "").end(), expect)

    def read(self, result: Result, expect: int = 0) -> str:
        """Return what a command has printed; a refusal that was expected is its result.

        Raises:
            DemoError: it ended with another code than expected.
        """
        if result.code != expect:
            raise DemoError(
                f"a command of {self.name} exited with {result.code}, expected {expect}:\n"
                f"{result.err}{result.out}".rstrip()
            )
        return result.out if not expect or result.out else result.err

    def show(self, *args: str, expect: int = 0) -> str:
        """Run a command, and show it with what it printed."""
        self._teller.command(self.line(*args))
        out = self.run(*args, expect=expect)
        self._teller.output(out.splitlines())
        return out

    def start_serving(self) -> None:
        """Start serving and following, and show it; return when peers can call."""
        settings = " ".join(f"{key}={value}" for key, value in _SETTINGS.items())
        self._teller.command(f"{settings} {self.line('serve')} &")
        try:
            self.serve()
        except AssertionError as error:
            raise DemoError(f"{self.name} does not serve") from error

    @property
    def store(self) -> Store:
        """The node's store, opened for reading by this process as well."""
        if self._store is None:
            try:
                self._store = Store.open_reader(self.home / "store.db", SystemClock())
            except NodeError as error:
                raise DemoError(str(error)) from error
        return self._store

    def size(self, origin: str) -> int:
        """Return how many deltas of a list are here."""
        record = lists.load_list(self.store.connection, Origin.parse(origin))
        return 0 if record is None else record.log.size

    def is_past(self, origin: str, size: int) -> bool:
        """Return whether more deltas of a list are here."""
        return self.size(origin) > size

    def misses(self, text: str, entry: EntryId) -> bool:
        """Return whether a lookup of a hash no longer finds an entry here."""
        return all(match.operation.entry != entry for match in lookup.lookup(self.store, text))

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
            self._store = None


# --- the list that is shared ------------------------------------------------------------------


class Part(NamedTuple):
    """One change file: where it is, and what it says."""

    path: Path
    operations: tuple[Operation, ...]


def write_sample(path: Path, most: int) -> None:
    """Write a list of files of Python's standard library, at most `most`.

    Each file is one entry, named by three digests and labeled with its package. An organization
    that keeps MD5, SHA-1 and SHA-256 of its material would export such a list.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    seen: set[bytes] = set()
    with path.open("w", encoding="utf-8") as out:
        for file in sorted(folder.rglob("*.py")):
            if len(seen) == most:
                break
            if "site-packages" in file.parts or file.is_symlink() or not file.is_file():
                continue
            data = file.read_bytes() if file.stat().st_size <= _MAX_FILE_BYTES else b""
            name = hashlib.sha256(data)
            # The digests of an empty file mean nothing: no list may carry them.
            if not data or name.digest() in seen:
                continue
            seen.add(name.digest())
            digests = {
                "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
                "sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
                "sha256": name.hexdigest(),
            }
            within = file.relative_to(folder)
            labels = [within.parts[0] if len(within.parts) > 1 else within.stem]
            change = {"op": "assert", "fingerprints": digests, "labels": labels}
            out.write(f"{json.dumps(change)}\n")


def cut(source: Path, folder: Path, parts: int) -> list[Part]:
    """Cut a list into change files that say the same when they are imported in order.

    Args:
        source: JSON Lines or CSV, as `hashfed import` takes it; may be compressed with gzip.
        folder: where the parts are written.
        parts: how many parts to make; fewer if there are fewer changes.

    Raises:
        DemoError: it cannot be read, or has too few changes.
    """
    try:
        data = source.read_bytes()
        text = (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DemoError(f"cannot read {source}: {error}") from error
    lines = [(at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip()]
    is_csv = not text.lstrip().startswith("{")
    operations = _read_csv(lines, source) if is_csv else _read(lines, parse_change, source)
    parts = min(parts, len(operations))
    if parts < _FEWEST_PARTS:
        raise DemoError(
            f"{source} has {len(operations)} entries, but at least {_FEWEST_PARTS} are needed"
        )
    made = []
    for number in range(parts):
        first, last = (len(operations) * at // parts for at in (number, number + 1))
        path = folder / f"part-{number + 1:02}.jsonl"
        chunk = tuple(operations[first:last])
        path.write_text("".join(f"{format_change(change)}\n" for change in chunk), "utf-8")
        made.append(Part(path, chunk))
    return made


def _read(lines: Iterable[tuple[int, str]], parse: Callable[[str], T], source: Path) -> list[T]:
    read = []
    for number, line in lines:
        try:
            read.append(parse(line))
        except FederationError as error:
            raise DemoError(f"{source}:{number}: {error}") from error
    return read


def _read_csv(lines: Sequence[tuple[int, str]], source: Path) -> list[Operation]:
    """Return one operation for each fingerprint: all its rows are one entry."""
    (reader,) = _read(lines[:1], lambda line: CsvReader.open(line.encode()), source) or (None,)
    if reader is None:
        return []
    rows = _read(lines[1:], lambda line: reader.parse_row(line.encode()), source)
    rows.sort(key=lambda row: row.entry)
    merged = []
    for _, group in groupby(rows, key=lambda row: row.entry):
        same = list(group)
        labels = merge_labels([row.annotation for row in same])
        merged.append(Operation.assertion(same[0].fingerprints, labels))
    return merged


def apply(state: State, operations: Iterable[Operation]) -> None:
    """Apply operations to a state, one after the other."""
    for operation in operations:
        if operation.kind is OpKind.ASSERT:
            state[operation.entry] = operation
        else:
            state.pop(operation.entry, None)


def expected_export(state: State) -> bytes:
    """Return what every node must export for a state."""
    named = sorted((entry.format().encode(), operation) for entry, operation in state.items())
    return b"".join(f"{format_change(operation)}\n".encode() for _, operation in named)


def pick(state: State) -> Operation:
    """Return an entry whose fingerprints no other live entry has.

    Raises:
        DemoError: every live entry shares a fingerprint with another one.
    """
    count = Counter(found for operation in state.values() for found in operation.fingerprints)
    for _, operation in sorted(state.items()):
        if all(count[fingerprint] == 1 for fingerprint in operation.fingerprints):
            return operation
    raise DemoError("every hash of the list is in several entries: name another list with --input")


# --- the story --------------------------------------------------------------------------------


class Story:
    """What the three organizations do, one chapter after the other, and what is claimed.

    Attributes:
        coalition: the nodes.
        state: the live entries that must be in force now.
    """

    def __init__(self, folder: Path, teller: Teller, source: Path, parts: Sequence[Part]) -> None:
        self.folder, self.teller, self.source, self.parts = folder, teller, source, parts
        self.hotline, self.platform, self.ngo = (
            Member(f"{name}.example", folder, teller) for name in ("hotline", "platform", "ngo")
        )
        self.coalition = Coalition(self.hotline, self.platform, self.ngo)
        self.origin = f"{self.hotline.org}/{_LIST}"
        self.state: State = {}
        self._early: dict[int, bytes] = {}

    def tell(self) -> None:
        """Tell the whole story.

        Raises:
            DemoError: something is not as claimed, or went wrong.
        """
        half = len(self.parts) // 2
        self.meet()
        self.publish_first(self.parts[:half])
        self.follow()
        self.publish_live(self.parts[half:-2])
        retracted = self.retract()
        self.crash(self.parts[-2], self.parts[-1])
        self.ask(retracted)
        self.prove()

    # --- chapters -----------------------------------------------------------------------------

    def meet(self) -> None:
        """Make the nodes, and exchange invitations between those that are to talk."""
        self.teller.chapter("Three organizations, three nodes")
        self.teller.say(
            "A node is a folder: a configuration, keys that never leave it, and one database. "
            "hotline.example keeps a list; platform.example is its partner; ngo.example is a "
            "partner of platform.example only."
        )
        nodes = self.coalition.nodes
        made = self._show_all(
            [
                (node, ("init", "--org", node.org, "--listen", f"127.0.0.1:{node.port}"))
                for node in nodes
            ]
        )
        heard = {
            node: printed.partition("fingerprint: ")[2].strip()
            for node, printed in zip(nodes, made, strict=True)
        }
        self.teller.say(
            "Invitations travel by mail. The fingerprint is read out on the telephone, and what "
            "was heard is what gets typed."
        )
        for node, invitation in zip(
            nodes, self._run_all([(node, ("invite",)) for node in nodes]), strict=True
        ):
            self.teller.command(f"{node.line('invite')} > {node.name}.invite")
            (self.folder / f"{node.name}.invite").write_text(invitation)
        hotline, platform, ngo = nodes
        pairs = [(hotline, platform), (platform, hotline), (platform, ngo), (ngo, platform)]
        self._show_all(
            [
                (node, ("peer", "add", f"{other.name}.invite", "--fingerprint", heard[other]))
                for node, other in [*pairs, (ngo, hotline)]
            ]
        )
        self.teller.say(
            "The last one lets ngo.example verify what hotline.example signs, whichever node sends "
            "it. hotline.example does not know ngo.example."
        )

    def publish_first(self, parts: Sequence[Part]) -> None:
        """Create the list and publish its beginning, with nobody listening yet."""
        self.teller.chapter("hotline.example publishes")
        total = sum(len(part.operations) for part in self.parts)
        self.teller.say(
            f"The list is {self.source}: {total} changes, cut into {len(self.parts)} change files "
            "that are imported and published one by one. Only the two others may receive it. The "
            "first change reads:"
        )
        self.teller.output([format_change(self.parts[0].operations[0])])
        others = f"{self.platform.org},{self.ngo.org}"
        self.hotline.show("list", "create", _LIST, "--audience", others)
        for number, part in enumerate(parts):
            run = self.hotline.run if number else self.hotline.show
            run("import", _LIST, part.path.name)
            run("publish", _LIST)
            apply(self.state, part.operations)
            if not number:
                # Remember what an export as of this position must be, for the last chapter.
                self._early[self.hotline.size(self.origin)] = expected_export(self.state)
        self.teller.say(f"... and so on: change files 1 to {len(parts)} are published.")
        self.hotline.show("log", _LIST, "--limit", "3")

    def follow(self) -> None:
        """Let the others fetch what there is: directly, and through the relay."""
        self.teller.chapter("platform.example follows directly, ngo.example through it")
        self.hotline.start_serving()
        self.platform.show("follow", self.origin)
        self.platform.show("sync")
        self.platform.start_serving()
        self.teller.say("ngo.example may not call hotline.example itself:")
        self.ngo.show("offers", self.hotline.org, expect=_EXIT_UNREACHABLE)
        self.teller.say(
            "The relay may hand the list on, because hotline.example's signed audience says so. "
            "ngo.example checks every byte against hotline.example's keys, and trusts the relay "
            "with nothing."
        )
        self.ngo.show("offers", self.platform.org)
        self.ngo.show("follow", self.origin, "--via", self.platform.org)
        self.ngo.show("sync")
        self.ngo.start_serving()
        sizes = [node.size(self.origin) for node in self.coalition.nodes]
        self.teller.claim(
            f"all three hold the {sizes[0]} deltas published so far", holds=len(set(sizes)) == 1
        )

    def publish_live(self, parts: Sequence[Part]) -> None:
        """Publish while the others listen."""
        self.teller.chapter("Live: what is published arrives")
        self.teller.say(
            "All three serve now. Each change file is published; the clock runs from the moment "
            "it is signed and stored at hotline.example until it is verified and stored elsewhere."
        )
        times: dict[Member, list[float]] = {node: [] for node in self._followers}
        for part in parts:
            for node, seconds in self._publish_and_await(part).items():
                times[node].append(seconds)
        for node in self._followers:
            if times[node]:
                self.teller.say(
                    f"{len(times[node])} deltas at {node.org}: median "
                    f"{median(times[node]) * 1000:.0f} ms, slowest {max(times[node]) * 1000:.0f} ms"
                )
        sizes = {node.size(self.origin) for node in self.coalition.nodes}
        self.teller.claim("every change published live arrived at both", holds=len(sizes) == 1)

    def retract(self) -> Operation:
        """Retract a mistake, and measure how long others still match it; return the entry."""
        chosen = pick(self.state)
        text = chosen.fingerprints[-1].format()
        self.teller.chapter("A mistake is taken back everywhere")
        self.teller.say("One entry turns out to be wrong. ngo.example still matches it:")
        self.ngo.show("lookup", text)
        reason = "a file of an innocent project"
        self.hotline.show("retract", _LIST, text, "--cause", "false-positive", "--reason", reason)
        gone = {node: partial(node.misses, text, chosen.entry) for node in self.coalition.nodes}
        seen = self._while_publishing(lambda: self._await_all(gone))
        self.state.pop(chosen.entry)
        for node in self._followers:
            self.teller.say(
                f"{node.org} no longer matches it {(seen[node] - seen[self.hotline]) * 1000:.0f} "
                "ms after hotline.example signed that"
            )
        out = self.ngo.show("lookup", text, expect=1)
        self.teller.claim("the retraction took effect at both, live", holds="not found" in out)
        return chosen

    def crash(self, during: Part, after: Part) -> None:
        """Kill the relay while a change arrives, publish more, and start it again."""
        self.teller.chapter("The relay dies, and comes back")
        before = self.hotline.size(self.origin)
        self.hotline.run("import", _LIST, during.path.name)
        self.teller.say("The moment the next change is signed, the relay is killed:")
        pid = 0 if self.platform.server is None else self.platform.server.pid

        def strike() -> None:
            self._await_all({self.hotline: partial(self.hotline.is_past, self.origin, before)})
            self.platform.kill()

        self._while_publishing(strike)
        self.teller.command(f"kill -9 {pid}")
        self.hotline.run("import", _LIST, after.path.name)
        self._while_publishing(lambda: None)
        apply(self.state, [*during.operations, *after.operations])
        size = self.hotline.size(self.origin)
        self.teller.say(
            f"hotline.example published {size - before} more deltas meanwhile. ngo.example depends "
            f"on the relay, lacks {size - self.ngo.size(self.origin)} of them, and goes on "
            "answering from what it has."
        )
        kept = self.platform.size(self.origin)
        began = time.perf_counter()
        self.platform.start_serving()
        seen = self._await_all(
            {node: partial(node.is_past, self.origin, size - 1) for node in self._followers}
        )
        for node in self._followers:
            self.teller.say(
                f"{node.org} has all {size} deltas {seen[node] - began:.1f} s after the restart"
            )
        self.ngo.show("status")
        self.teller.claim(
            f"after a kill -9 the relay went on from its position {kept}, and so did ngo.example",
            holds=all(node.size(self.origin) == size for node in self._followers),
        )

    def ask(self, retracted: Operation) -> None:
        """Ask the last node for the whole history of one entry."""
        self.teller.chapter("Who said that, when, under which key, and how did it come here?")
        text = retracted.fingerprints[-1].format()
        self.ngo.show("show", self.origin, text)
        command = ("show", self.origin, text, "--json")
        here, there = map(_versions, self._run_all([(self.ngo, command), (self.hotline, command)]))
        same = ("position", "row", "key", "delta", "checkpoint", "signed_at")
        self.teller.claim(
            "ngo.example can name key, delta and checkpoint of both versions, byte for byte as "
            "hotline.example has them",
            holds=len(here) == len(there) == 2
            and all(a[key] == b[key] for a, b in zip(here, there, strict=True) for key in same),
        )
        self.teller.claim(
            "it knows which node sent them: platform.example",
            holds=all(version["via"] == self.platform.org for version in here),
        )

    def prove(self) -> None:
        """Show that all three hold what the input says, and that their stores are sound."""
        self.teller.chapter("The proof")
        self.teller.say("Each node exports the list; the files are compared.")
        self.teller.command(f"hashfed --home NODE export {self.origin} -o NODE.export.jsonl")
        self._compare("now", (), expected_export(self.state))
        position, past = min(self._early.items())
        self.teller.say("The same for an earlier point: after the first change file.")
        point = f"position:{position}"
        self.teller.command(f"hashfed --home NODE export {self.origin} --as-of {point} -o ...")
        self._compare(f"as of {point}", ("--as-of", point), past)
        self.teller.say("Every signature, tree, body and index row, derived from the signed bytes:")
        self.teller.command("hashfed --home NODE fsck")
        nodes = self.coalition.nodes
        checked = self._run_all([(node, ("fsck",)) for node in nodes])
        for node, out in zip(nodes, checked, strict=True):
            self.teller.output([f"{node.name}: {out.strip()}"])
        self.teller.claim(
            "fsck finds all three stores sound",
            holds=all(out.startswith("sound: ") for out in checked),
        )

    # --- steps --------------------------------------------------------------------------------

    @property
    def _followers(self) -> tuple[Member, Member]:
        return self.platform, self.ngo

    def _run_all(self, commands: Sequence[tuple[Member, Sequence[str]]]) -> list[str]:
        """Run commands at the same time; return what each printed on stdout, in order."""
        ended = self.coalition.run_all(commands)
        return [node.read(result) for (node, _), result in zip(commands, ended, strict=True)]

    def _show_all(self, commands: Sequence[tuple[Member, Sequence[str]]]) -> list[str]:
        printed = self._run_all(commands)
        for (node, args), out in zip(commands, printed, strict=True):
            self.teller.command(node.line(*args))
            self.teller.output(out.splitlines())
        return printed

    def _await_all(self, probes: Mapping[Member, Callable[[], bool]]) -> dict[Member, float]:
        return self.coalition.await_all(probes, seconds=_WAIT_SECONDS)

    def _publish_and_await(self, part: Part) -> dict[Member, float]:
        """Publish; return for each follower the seconds from signing to its store."""
        before = self.hotline.size(self.origin)
        self.hotline.run("import", _LIST, part.path.name)
        publishing = Running(self.hotline, ("publish", _LIST), "")
        # A part may change nothing, such as one that asserts what is in force: then no delta comes.
        while self.hotline.size(self.origin) == before and publishing.process.poll() is None:
            time.sleep(0.001)
        signed = time.perf_counter()
        seen = {}
        if self.hotline.size(self.origin) > before:
            seen = self._await_all(
                {node: partial(node.is_past, self.origin, before) for node in self._followers}
            )
        out = self.hotline.read(publishing.end())
        apply(self.state, part.operations)
        # A large part makes several deltas: all must have come before the next part is timed.
        size = self.hotline.size(self.origin)
        self._await_all(
            {node: partial(node.is_past, self.origin, size - 1) for node in self._followers}
        )
        self.teller.output(out.splitlines())
        return {node: at - signed for node, at in seen.items()}

    def _while_publishing(self, act: Callable[[], T]) -> T:
        """Publish what is staged, and do something as soon as the publication has begun."""
        self.teller.command(self.hotline.line("publish", _LIST))
        publishing = Running(self.hotline, ("publish", _LIST), "")
        result = act()
        self.teller.output(self.hotline.read(publishing.end()).splitlines())
        return result

    def _compare(self, when: str, args: Sequence[str], expected: bytes) -> None:
        name = "export-as-of" if args else "export"
        paths = {node: f"{node.name}.{name}.jsonl" for node in self.coalition.nodes}
        self._run_all(
            [
                (node, ("export", self.origin, *args, "--output", path))
                for node, path in paths.items()
            ]
        )
        digests = []
        for node, path in paths.items():
            digests.append(hashlib.sha256((self.folder / path).read_bytes()).hexdigest())
            self.teller.output([f"{digests[-1]}  {node.name}"])
        wanted = hashlib.sha256(expected).hexdigest()
        entries = expected.count(b"\n")
        self.teller.output([f"{wanted}  expected: the input, applied change by change, here"])
        self.teller.claim(
            f"the exports {when} are identical, and are what the input says ({entries} entries)",
            holds=set(digests) == {wanted},
            otherwise=f"expected {wanted}, got {', '.join(digests)}",
        )


def _versions(printed: str) -> list[dict[str, Any]]:
    found = json.loads(printed)["entries"]
    if len(found) != 1:
        raise DemoError(f"one hash names {len(found)} entries, expected one")
    versions: list[dict[str, Any]] = found[0]["versions"]
    return versions


# --- the program ------------------------------------------------------------------------------


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="the list to share, as `hashfed import` takes it: JSON Lines or CSV, also .gz; "
        "by default one is made from files of Python's standard library",
    )
    parser.add_argument(
        "--files",
        type=int,
        default=3_000,
        metavar="N",
        help="the most entries of the list that is made (default 3000)",
    )
    parser.add_argument(
        "--parts",
        type=int,
        default=10,
        metavar="N",
        help="how many change files the list is cut into (default 10)",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in this new folder, and leave it there"
    )
    parser.add_argument(
        "--pause", action="store_true", help="wait for Enter before each chapter (terminal only)"
    )
    arguments = parser.parse_args()
    if arguments.parts < _FEWEST_PARTS:
        parser.error(f"--parts: got {arguments.parts}, expected at least {_FEWEST_PARTS}")
    return arguments


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="hashfed-demo-") as name:
            yield Path(name)
        return
    try:
        keep.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise DemoError(f"{keep} exists already: name a folder that does not") from error
    except OSError as error:
        raise DemoError(f"cannot make {keep}: {error.strerror}") from error
    yield keep.absolute()


def _run(arguments: argparse.Namespace, teller: Teller) -> None:
    began = time.perf_counter()
    with _folder(arguments.keep) as folder:
        source = arguments.input
        if source is None:
            source = folder / "input.jsonl"
            write_sample(source, arguments.files)
        story = Story(folder, teller, source, cut(source, folder, arguments.parts))
        try:
            story.tell()
        except TimeoutError as error:
            _show_logs(story)
            raise DemoError(str(error)) from error
        except DemoError:
            _show_logs(story)
            raise
        finally:
            for node in story.coalition.nodes:
                node.close()
            story.coalition.end()
        teller.close(time.perf_counter() - began)
        if arguments.keep is not None:
            _explain_kept(folder, story)


def _show_logs(story: Story) -> None:
    for node in story.coalition.nodes:
        if lines := node.log().splitlines()[-_LOG_LINES:]:
            print(f"\nlast lines of the log of {node.name}:", file=sys.stderr)
            print("\n".join(f"  {line}" for line in lines), file=sys.stderr)


def _explain_kept(folder: Path, story: Story) -> None:
    settings = " ".join(f"{key}={value}" for key, value in _SETTINGS.items())
    print(f"\nThe nodes are in {folder}; nothing is running any more. To go on:\n")
    program = Path(sys.executable).with_name("hashfed")
    print(f"   cd {shlex.quote(str(folder))}; alias hashfed={shlex.quote(str(program))}")
    for node in story.coalition.nodes:
        print(f"   {settings} {node.line('serve')} &")
    print(f"   {story.ngo.line('status')}")


def main() -> int:
    """Run the demonstration and return its exit code."""
    arguments = _parse_arguments()
    end_on_signals()
    try:
        _run(arguments, Teller(pause=arguments.pause))
    except DemoError as error:
        print(f"\nscripts/demo: {error}", file=sys.stderr)
        return _EXIT_FAILED
    except BrokenPipeError:
        # The person has stopped watching; stop the nodes.
        sys.stderr.close()
        return _EXIT_FAILED
    except KeyboardInterrupt:
        print("\nscripts/demo: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
