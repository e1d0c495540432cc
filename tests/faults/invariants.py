"""What must hold whatever breaks, checked from outside: by what nodes print and send to peers.

The numbers are those of the promises in docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from federation.recovery import Mark, Obstacle
from tests.faults.part import Broken

DOCUMENTED_CODES: Final = frozenset({0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 74, 75, 130})
"""Exit codes of README.md."""

KILLED: Final = -9
"""How a process ends that was killed."""


class Reading(Protocol):
    """A node as the checks see it, through commands."""

    @property
    def org(self) -> str:
        """The organization."""

    def headers(self, origin: str) -> dict[int, str]:
        """Return the hash of each delta's header by position."""


class Publishing(Reading, Protocol):
    """A publisher as the checks see it."""

    def mark(self, origin: str) -> Mark | Obstacle:
        """Return the high-water mark of a list of this node."""


@dataclass
class Ledger:
    """Everything ever seen of one list at any node: a position must never change.

    A log is a chain of headers, each of which names the one before. If all nodes agree on the
    header of each position, then what was released is one append-only chain.

    Attributes:
        origin: the list.
        history: the header of each position that any node has ever shown.
        acknowledged: how many positions each node has said that it holds.
    """

    origin: str
    history: dict[int, str] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)

    def see(self, who: str, headers: Mapping[int, str]) -> None:
        """Compare what a node shows with everything ever seen.

        Raises:
            Broken: a position has another header than before; or a node lacks positions that it
                had reported.
        """
        for position, header in headers.items():
            seen = self.history.setdefault(position, header)
            if seen != header:
                raise Broken(
                    f"{self.origin} position {position} was signed twice: {seen} was seen before, "
                    f"{who} shows {header}"
                )
        size = max(headers, default=-1) + 1
        held = self.acknowledged.get(who, 0)
        if size < held:
            raise Broken(f"{who} has {size} positions of {self.origin}, and had {held}")

    def look(self, nodes: Iterable[Reading]) -> None:
        """Compare what each node shows with everything ever seen.

        Raises:
            Broken: see `see`.
        """
        for node in nodes:
            self.see(node.org, node.headers(self.origin))

    def require_mark(self, owner: Publishing, others: Iterable[Reading]) -> None:
        """Require that the mark covers everything that has left the owner: what its peers hold.

        Raises:
            Broken: it does not.
        """
        # Read what others hold before the mark, as a publication may go on meanwhile.
        held = {node.org: max(node.headers(self.origin), default=-1) + 1 for node in others}
        mark = owner.mark(self.origin)
        if not isinstance(mark, Mark):
            raise Broken(f"{self.origin} has no mark that can be used: {mark}")
        for org, size in held.items():
            if size > mark.checkpoint.size:
                raise Broken(
                    f"{org} holds {size} positions of {self.origin}, the high-water mark says that "
                    f"{mark.checkpoint.size} were released"
                )

    def acknowledge(self, who: str, size: int) -> None:
        """Remember that a node has reported that it holds this many positions."""
        self.acknowledged[who] = max(size, self.acknowledged.get(who, 0))


def require_documented(code: int, stderr: str, *, of: str, killed: bool = False) -> None:
    """Require that a process has ended in a documented way.

    Args:
        code: its exit code, negative for a signal.
        stderr: what it wrote there.
        of: the process, for the message.
        killed: whether it may have been killed.

    Raises:
        Broken: it has not.
    """
    if code not in DOCUMENTED_CODES and not (killed and code == KILLED):
        raise Broken(f"{of} ended with {code}, which is not documented: {stderr[-500:]}")
    if "Traceback" in stderr:
        raise Broken(f"{of} wrote a traceback: {stderr[-2000:]}")
