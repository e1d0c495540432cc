"""The story: what the three organizations do, one chapter after the other, and what is claimed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Final

import material
from coalition import Coalition, Node
from material import Part, State
from telling import DemoError, Teller

from federation.entry import EntryId, Operation
from node.formats.jsonl import format_change
from node.query import lookup

_LIST: Final = "known"
_SHOWN_PARTS: Final = 1
_EXIT_UNREACHABLE: Final = 75


@dataclass(slots=True, kw_only=True)
class Story:
    """What there is to tell it with.

    Attributes:
        folder: where everything lies.
        coalition: the nodes.
        teller: tells it.
        source: the change file that is shared.
        parts: the same, cut into several.
        state: the live entries that must be in force now.
    """

    folder: Path
    coalition: Coalition
    teller: Teller
    source: Path
    parts: Sequence[Part]
    state: State = field(default_factory=dict)
    _early: dict[int, bytes] = field(default_factory=dict)
    _retracted: Operation | None = None

    @property
    def origin(self) -> str:
        """The list's name everywhere."""
        return f"{self.coalition.hotline.org}/{_LIST}"

    def tell(self) -> None:
        """Tell all of it.

        Raises:
            ClaimError: something is not as claimed.
            DemoError: something went wrong.
        """
        half = len(self.parts) // 2
        self.meet()
        self.publish_first(self.parts[:half])
        self.follow()
        self.publish_live(self.parts[half:-2])
        self.retract()
        self.crash(self.parts[-2], self.parts[-1])
        self.ask()
        self.prove()

    # --- chapters -----------------------------------------------------------------------------

    def meet(self) -> None:
        """Make the nodes, and let those that are to talk to each other know each other."""
        teller, coalition = self.teller, self.coalition
        teller.chapter("Three organizations, three nodes")
        teller.say(
            "A node is a folder: a configuration, keys that never leave it, and one database. "
            "hotline.example keeps a list; platform.example is its partner; ngo.example is a "
            "partner of platform.example only."
        )
        made = coalition.show_all(
            [
                (node, ("init", "--org", node.org, "--listen", f"127.0.0.1:{node.port}"))
                for node in coalition.nodes
            ]
        )
        heard = {
            node: printed.partition("fingerprint: ")[2].strip()
            for node, printed in zip(coalition.nodes, made, strict=True)
        }
        teller.say(
            "Invitations travel by mail; the fingerprint is read out on the telephone, and what "
            "was heard is what gets typed."
        )
        invitations = coalition.run_all([(node, ("invite",)) for node in coalition.nodes])
        for node, invitation in zip(coalition.nodes, invitations, strict=True):
            teller.command(f"{node.line('invite')} > {node.name}.invite")
            (self.folder / f"{node.name}.invite").write_text(invitation)
        hotline, platform, ngo = coalition.nodes
        pairs = (
            (hotline, platform),
            (platform, hotline),
            (platform, ngo),
            (ngo, platform),
            (ngo, hotline),
        )
        coalition.show_all(
            [
                (node, ("peer", "add", f"{other.name}.invite", "--fingerprint", heard[other]))
                for node, other in pairs
            ]
        )
        teller.say(
            "The last one lets ngo.example verify what hotline.example signs, whoever brings it. "
            "hotline.example does not know ngo.example."
        )

    def publish_first(self, parts: Sequence[Part]) -> None:
        """Create the list and publish its beginning, with nobody listening yet."""
        teller, hotline = self.teller, self.coalition.hotline
        teller.chapter("hotline.example publishes")
        total = sum(len(part.operations) for part in self.parts)
        teller.say(
            f"The list is {self.source}: {total} changes, cut into {len(self.parts)} change files "
            "that are imported and published one by one. It may reach the two others, and nobody "
            "else. The first change reads:"
        )
        teller.output([format_change(self.parts[0].operations[0])])
        others = f"{self.coalition.platform.org},{self.coalition.ngo.org}"
        hotline.show("list", "create", _LIST, "--audience", others)
        for number, part in enumerate(parts):
            self._publish(part, shown=number < _SHOWN_PARTS)
        teller.say(f"... and so on: change files 1 to {len(parts)} are published.")
        hotline.show("log", _LIST, "--limit", "3")

    def follow(self) -> None:
        """Let the others fetch what there is: directly, and through the relay."""
        teller, coalition = self.teller, self.coalition
        hotline, platform, ngo = coalition.nodes
        teller.chapter("platform.example follows directly, ngo.example through platform.example")
        hotline.serve()
        platform.show("follow", self.origin)
        platform.show("sync")
        platform.serve()
        teller.say("ngo.example has no business calling hotline.example itself:")
        ngo.show("offers", hotline.org, expect=_EXIT_UNREACHABLE)
        teller.say(
            "The relay may hand the list on, because hotline.example's signed audience says so. "
            "ngo.example checks every byte against hotline.example's keys, and trusts the relay "
            "with nothing."
        )
        ngo.show("offers", platform.org)
        ngo.show("follow", self.origin, "--via", platform.org)
        ngo.show("sync")
        ngo.serve()
        size = hotline.size(self.origin)
        sizes = [node.size(self.origin) for node in coalition.nodes]
        teller.claim(
            f"all three hold the {size} deltas published so far", holds=sizes == [size] * 3
        )

    def publish_live(self, parts: Sequence[Part]) -> None:
        """Publish while the others listen."""
        teller, coalition = self.teller, self.coalition
        teller.chapter("Live: what is published arrives")
        teller.say(
            "All three serve now. Each change file is published; the clock runs from the moment "
            "it is signed and stored at hotline.example until it is verified and stored elsewhere."
        )
        times: dict[Node, list[float]] = {node: [] for node in self._followers}
        for part in parts:
            arrived = self._publish_and_await(part)
            for node in self._followers:
                times[node] += [arrived[node]] if node in arrived else []
        for node in self._followers:
            if times[node]:
                teller.say(
                    f"{len(times[node])} deltas at {node.org}: median "
                    f"{median(times[node]) * 1000:.0f} ms, slowest {max(times[node]) * 1000:.0f} ms"
                )
        sizes = {node.size(self.origin) for node in coalition.nodes}
        teller.claim("every change published live arrived at both", holds=len(sizes) == 1)

    def retract(self) -> None:
        """Take a mistake back, and see how long it lives on elsewhere."""
        teller, coalition = self.teller, self.coalition
        hotline, _, ngo = coalition.nodes
        chosen = material.pick(self.state)
        text = chosen.fingerprints[-1].format()
        teller.chapter("A mistake is taken back everywhere")
        teller.say("One entry turns out to be wrong. ngo.example still matches it:")
        ngo.show("lookup", text)
        reason = "a file of an innocent project"
        hotline.show("retract", _LIST, text, "--cause", "false-positive", "--reason", reason)
        gone = {node: partial(_is_gone, node, text, chosen.entry) for node in coalition.nodes}
        seen = self._while_publishing(lambda: coalition.await_all(gone))
        self.state.pop(chosen.entry)
        signed = seen[hotline]
        for node in self._followers:
            teller.say(
                f"{node.org} no longer matches it {(seen[node] - signed) * 1000:.0f} ms after "
                "hotline.example signed that"
            )
        out = ngo.show("lookup", text, expect=1)
        teller.claim("the retraction took effect at both, live", holds="not found" in out)
        self._retracted = chosen

    def crash(self, during: Part, after: Part) -> None:
        """Kill the relay while something arrives, publish more, and let it come back."""
        teller, coalition = self.teller, self.coalition
        hotline, platform, ngo = coalition.nodes
        teller.chapter("The relay dies, and comes back")
        before = hotline.size(self.origin)
        self._stage(during, shown=False)
        teller.say("The moment the next change is signed, the relay is killed, whatever it does:")
        pid = platform.pid

        def strike() -> float:
            began = time.perf_counter()
            coalition.await_all({hotline: lambda: hotline.size(self.origin) > before})
            platform.kill()
            return began

        self._while_publishing(strike)
        teller.command(f"kill -9 {pid}")
        material.apply(self.state, during.operations)
        self._stage(after, shown=False)
        self._while_publishing(lambda: None)
        material.apply(self.state, after.operations)
        size = hotline.size(self.origin)
        missing = size - ngo.size(self.origin)
        teller.say(
            f"hotline.example published {size - before} more deltas meanwhile; ngo.example, whose "
            f"only way is the relay, lacks {missing} of them, and goes on answering from what it "
            "has."
        )
        kept = platform.size(self.origin)
        began = time.perf_counter()
        platform.serve()
        seen = coalition.await_all(
            {node: partial(_has, node, self.origin, size) for node in self._followers}
        )
        for node in self._followers:
            teller.say(
                f"{node.org} has all {size} deltas {seen[node] - began:.1f} s after the restart"
            )
        ngo.show("status")
        teller.claim(
            f"after a kill -9 the relay went on from its position {kept}, and so did ngo.example",
            holds=platform.size(self.origin) == size == ngo.size(self.origin),
        )

    def ask(self) -> None:
        """Ask for the whole story of one entry, at the far end."""
        teller, coalition = self.teller, self.coalition
        hotline, platform, ngo = coalition.nodes
        teller.chapter("Who said that, when, under which key, and how did it come here?")
        if self._retracted is None:
            raise DemoError("nothing was retracted")
        text = self._retracted.fingerprints[-1].format()
        ngo.show("show", self.origin, text)
        command = ("show", self.origin, text, "--json")
        here, there = map(_versions, coalition.run_all([(ngo, command), (hotline, command)]))
        same = ("position", "row", "key", "delta", "checkpoint", "signed_at")
        teller.claim(
            "ngo.example can name key, delta and checkpoint of both versions, byte for byte as "
            "hotline.example has them",
            holds=len(here) == len(there) == 2
            and all(a[key] == b[key] for a, b in zip(here, there, strict=True) for key in same),
        )
        teller.claim(
            "it knows by whom they came: platform.example",
            holds=all(version["via"] == platform.org for version in here),
        )

    def prove(self) -> None:
        """Show that all three hold the same, which is what the input says; and that it is sound."""
        teller, coalition = self.teller, self.coalition
        teller.chapter("The proof")
        teller.say("Each node exports the list; the files are compared.")
        teller.command(f"hashfed --home NODE export {self.origin} -o NODE.export.jsonl")
        self._compare("now", (), material.expected_export(self.state))
        position, past = min(self._early.items())
        teller.say("And as it was before all that: after the first change file.")
        point = f"position:{position}"
        teller.command(f"hashfed --home NODE export {self.origin} --as-of {point} -o ...")
        self._compare(f"as of {point}", ("--as-of", point), past)
        teller.say("Every signature, tree, body and index row, derived anew from the signed bytes:")
        teller.command("hashfed --home NODE fsck")
        checked = coalition.run_all([(node, ("fsck",)) for node in coalition.nodes])
        for node, out in zip(coalition.nodes, checked, strict=True):
            teller.output([f"{node.name}: {out.strip()}"])
        teller.claim(
            "fsck finds all three stores sound",
            holds=all(out.startswith("sound: ") for out in checked),
        )

    # --- steps --------------------------------------------------------------------------------

    @property
    def _followers(self) -> tuple[Node, Node]:
        return self.coalition.platform, self.coalition.ngo

    def _stage(self, part: Part, *, shown: bool) -> None:
        run = self.coalition.hotline.show if shown else self.coalition.hotline.run
        run("import", _LIST, part.path.name)

    def _publish(self, part: Part, *, shown: bool) -> None:
        hotline = self.coalition.hotline
        self._stage(part, shown=shown)
        (hotline.show if shown else hotline.run)("publish", _LIST)
        material.apply(self.state, part.operations)
        if not self._early:
            # What an export as of this position must be, for the last chapter.
            self._early[hotline.size(self.origin)] = material.expected_export(self.state)

    def _publish_and_await(self, part: Part) -> dict[Node, float]:
        """Publish; return for each follower the seconds from signing to its store."""
        hotline = self.coalition.hotline
        before = hotline.size(self.origin)
        self._stage(part, shown=False)
        process = hotline.start("publish", _LIST)
        try:
            # A part may change nothing, such as an assertion of what is in force: no delta then.
            while hotline.size(self.origin) == before and process.poll() is None:
                time.sleep(0.001)
            signed = time.perf_counter()
            seen = self.coalition.await_all(
                {node: partial(_is_past, node, self.origin, before) for node in self._followers}
                if hotline.size(self.origin) > before
                else {}
            )
        finally:
            out = hotline.finish(process)
        material.apply(self.state, part.operations)
        # A large part is several deltas: all must have come before the next one is timed.
        size = hotline.size(self.origin)
        self.coalition.await_all(
            {node: partial(_has, node, self.origin, size) for node in self._followers}
        )
        self.teller.output(out.splitlines())
        return {node: at - signed for node, at in seen.items()}

    def _while_publishing(self, act: Callable[[], Any]) -> Any:  # noqa: ANN401  # what `act` returns
        """Publish what is staged, and do something as soon as that has begun."""
        hotline = self.coalition.hotline
        self.teller.command(hotline.line("publish", _LIST))
        process = hotline.start("publish", _LIST)
        try:
            result = act()
        finally:
            out = hotline.finish(process)
        self.teller.output(out.splitlines())
        return result

    def _compare(self, when: str, arguments: Sequence[str], expected: bytes) -> None:
        name = "export-as-of" if arguments else "export"
        paths = {node: f"{node.name}.{name}.jsonl" for node in self.coalition.nodes}
        self.coalition.run_all(
            [
                (node, ("export", self.origin, *arguments, "--output", path))
                for node, path in paths.items()
            ]
        )
        digests = []
        for node, path in paths.items():
            digests.append(sha256((self.folder / path).read_bytes()).hexdigest())
            self.teller.output([f"{digests[-1]}  {node.name}"])
        wanted = sha256(expected).hexdigest()
        lines = expected.count(b"\n")
        self.teller.output([f"{wanted}  expected: the input, applied change by change, here"])
        self.teller.claim(
            f"the exports {when} are identical, and are what the input says ({lines} entries)",
            holds=set(digests) == {wanted},
            otherwise=f"expected {wanted}, got {', '.join(digests)}",
        )


def _has(node: Node, origin: str, size: int) -> bool:
    return node.size(origin) >= size


def _is_past(node: Node, origin: str, size: int) -> bool:
    return node.size(origin) > size


def _is_gone(node: Node, text: str, entry: EntryId) -> bool:
    return all(match.operation.entry != entry for match in lookup.lookup(node.store, text))


def _versions(printed: str) -> list[dict[str, Any]]:
    found = json.loads(printed)["entries"]
    if len(found) != 1:
        raise DemoError(f"one hash names {len(found)} entries, expected one")
    versions: list[dict[str, Any]] = found[0]["versions"]
    return versions
