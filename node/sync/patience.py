"""How long one `sync` waits for a peer: as long as something useful comes, up to a deadline.

Nothing else counts: a peer could send heartbeats, repetitions or messages of a later version for
ever.
"""

from __future__ import annotations

from collections.abc import Callable

from federation.names import OrgName
from node.sync.client import CONNECT_SECONDS
from node.sync.failures import IdleError


class Patience:
    """Decides when one `sync` stops waiting for one peer."""

    def __init__(
        self,
        org: OrgName,
        *,
        idle_seconds: float,
        deadline_seconds: float,
        monotonic: Callable[[], float],
    ) -> None:
        """Start the time of the `sync`.

        Args:
            org: the peer.
            idle_seconds: how long it may send nothing useful.
            deadline_seconds: how long the `sync` may take.
            monotonic: measures the time.
        """
        self._org = org
        self._idle = idle_seconds
        self._seconds = deadline_seconds
        self._monotonic = monotonic
        self._deadline = monotonic() + deadline_seconds
        self._gained, self._gained_at = 0, monotonic()

    def begin(self, gained: int) -> None:
        """Begin with a new stream; connecting may take some time more.

        Args:
            gained: as for `check`.
        """
        self._gained, self._gained_at = gained, self._monotonic() + CONNECT_SECONDS

    def until_deadline(self) -> float:
        """Return how many seconds are left until the deadline; at least 0."""
        return max(0.0, self._deadline - self._monotonic())

    def left(self) -> float:
        """Return how many seconds to wait for something useful; at least 0."""
        idle = self._idle - (self._monotonic() - self._gained_at)
        return min(max(0.0, idle), self.until_deadline())

    def overdue(self) -> IdleError:
        """Return the error that says that the deadline is over."""
        return IdleError(
            f"{self._org} had not sent everything after {self._seconds:g} s",
            hint="what came is kept, and the next 'hashfed sync' goes on from there; "
            "sync.deadline_seconds sets how long one may take",
        )

    def check(self, gained: int) -> None:
        """Take note of what came.

        Args:
            gained: a number that grows with everything useful on this stream.

        Raises:
            IdleError: nothing useful came for too long, or the deadline is over.
        """
        if gained > self._gained:
            self._gained, self._gained_at = gained, self._monotonic()
        if self.until_deadline() == 0:
            raise self.overdue()
        if self.left() == 0:
            raise IdleError(
                f"{self._org} sent nothing useful for {self._idle:g} s",
                hint="the connection is open: ask its operator whether the node works",
            )
