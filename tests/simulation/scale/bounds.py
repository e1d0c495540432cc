"""What follows from the costs, without a simulation: what grows, and what ends first."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.scale import costs

_DAY = 86_400.0
_HEADER_AND_CHECKPOINT = 522
"""Bytes of a delta beside its body: 335 of the header, some 187 of the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A coalition, each of whose members has all lists.

    Attributes:
        entries: in all lists together.
        ops_per_day: operations that are published in a day, by all.
        deltas_per_day: deltas that they come in.
        uplink: bytes a second of one that serves many.
    """

    entries: float = 100e6
    ops_per_day: float = 1e6
    deltas_per_day: float = 24_000
    uplink: float = 1e9 / 8

    @property
    def first_sync_bytes(self) -> float:
        """Bytes on the wire until a new member has all."""
        return self.entries * costs.WIRE_ENTRY.value

    @property
    def day_bytes(self) -> float:
        """Bytes that come to a member in a day."""
        deltas = self.deltas_per_day * (_HEADER_AND_CHECKPOINT + costs.FRAME.value)
        idle = _DAY / costs.HEARTBEAT_SECONDS * costs.HEARTBEAT.value
        return self.ops_per_day * costs.WIRE_ENTRY.value + deltas + idle

    @property
    def day_seconds(self) -> float:
        """Processor time in a day of a member that serves nobody."""
        return self.deltas_per_day * costs.ACCEPT.value + self.ops_per_day * costs.ACCEPT_OP.value


def line_ops(bandwidth: float) -> float:
    """Return from how many operations of a delta on a line is slower to send it than a core.

    Args:
        bandwidth: bytes a second of the line.
    """
    byte_seconds = 1 / bandwidth - costs.SEND_BYTE.value
    return (costs.SEND.value / byte_seconds - _HEADER_AND_CHECKPOINT) / costs.WIRE_ENTRY.value


def serving_seconds(profile: Profile, subscribers: int) -> float:
    """Return the processor time in a day of a member that so many follow for all lists.

    That includes what it takes to have the lists oneself.
    """
    sent = (
        profile.deltas_per_day * costs.SEND.value
        + profile.ops_per_day * costs.WIRE_ENTRY.value * costs.SEND_BYTE.value
    )
    return profile.day_seconds + subscribers * sent


def most_deltas(subscribers: int) -> float:
    """Return how many deltas of one operation a second leave the processor no time."""
    return 1 / (costs.ACCEPT.value + costs.ACCEPT_OP.value + subscribers * costs.SEND.value)
