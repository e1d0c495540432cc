"""What follows from the costs, without a simulation: what grows, and what ends first."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.scale import costs

_DAY = 86_400.0
_HEADER_AND_CHECKPOINT = 522
"""Bytes of a delta beside its body: 335 of the header, some 187 of the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A coalition.

    Attributes:
        entries: in all lists together.
        members: organizations, each with one node that has all lists.
        ops_per_day: operations that are published in a day, by all.
        deltas_per_day: deltas that they come in.
        uplink: bytes a second of one that serves many.
    """

    entries: float = 100e6
    members: int = 1000
    ops_per_day: float = 1e6
    deltas_per_day: float = 24_000
    uplink: float = 1e9 / 8

    @property
    def first_sync_bytes(self) -> float:
        """Bytes on the wire until a new member has all."""
        return self.entries * costs.WIRE_ENTRY.value

    @property
    def first_sync_seconds(self) -> float:
        """Processor time of a new member until all is verified and kept."""
        return self.entries * costs.BULK_ACCEPT_ENTRY.value

    @property
    def check_seconds(self) -> float:
        """Processor time for what is checked behind acceptance, or by one `fsck`."""
        return self.entries * costs.CHECK_ENTRY.value

    @property
    def publish_seconds(self) -> float:
        """Processor time of the owners, to import and publish all."""
        return self.entries * costs.PUBLISH_ENTRY.value

    @property
    def disk_bytes(self) -> float:
        """Bytes of a member's database."""
        return self.entries * costs.DISK_ENTRY.value

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

    @property
    def day_pages_bytes(self) -> float:
        """Bytes of pages that are written in a day, to the log and to the database.

        At most: when every operation falls on a page of its own.
        """
        return 2 * costs.PAGE * self.ops_per_day


def line_ops(bandwidth: float) -> float:
    """Return from how many operations of a delta on a line is slower to send it than a core.

    Args:
        bandwidth: bytes a second of the line.
    """
    byte_seconds = 1 / bandwidth - costs.SEND_BYTE.value
    return (costs.SEND.value / byte_seconds - _HEADER_AND_CHECKPOINT) / costs.WIRE_ENTRY.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What it takes to serve so many subscribers.

    Attributes:
        profile: the coalition.
        subscribers: how many follow all lists here.
    """

    profile: Profile
    subscribers: int

    @property
    def day_bytes(self) -> float:
        """Bytes sent in a day."""
        return self.subscribers * self.profile.day_bytes

    @property
    def day_seconds(self) -> float:
        """Processor time in a day, with what it takes to have the lists oneself."""
        profile = self.profile
        sent = (
            profile.deltas_per_day * costs.SEND.value
            + profile.ops_per_day * costs.WIRE_ENTRY.value * costs.SEND_BYTE.value
        )
        return profile.day_seconds + self.subscribers * sent

    @property
    def deltas_per_second(self) -> float:
        """Deltas of one operation a second at which the processor has no time left."""
        return 1 / (
            costs.ACCEPT.value + costs.ACCEPT_OP.value + self.subscribers * costs.SEND.value
        )

    @property
    def join_processor_seconds(self) -> float:
        """Processor time to bring all subscribers the lists from the beginning."""
        return self.subscribers * self.profile.entries * costs.BULK_SEND_ENTRY.value

    @property
    def join_line_seconds(self) -> float:
        """Time of the line for the same."""
        return self.subscribers * self.profile.first_sync_bytes / self.profile.uplink
