"""What a node and a network cost: every number that the simulation does not work out by itself.

Seconds are of one core of the machine of docs/performance.md. Each measured number has its source;
each that is assumed says so.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Cost(NamedTuple):
    """One number.

    Attributes:
        value: the number, in seconds or bytes.
        unit: how it is written.
        what: what it is of.
        source: where it was measured, or that it is assumed.
    """

    value: float
    unit: str
    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.value * _SCALES[self.unit]:.3g} {self.unit}"


_SCALES: Final = {"ms": 1e3, "us": 1e6, "ns": 1e9, "bytes": 1, "MiB": 2**-20}

# fmt: off
SEND: Final = Cost(
    1.05e-3, "ms", "processor time to send one frame to one subscriber",
    "performance.md, Many live subscribers: 218 ms for 200 streams, 9.5 ms for one")
SEND_BYTE: Final = Cost(
    1.8e-9, "ns", "the same, for each byte",
    "operate.md, Network: 0.24 s for 10,000 entries of 33 bytes to 200, 0.12 s for one")
ACCEPT: Final = Cost(
    3.5e-3, "ms", "to receive, verify and commit what came together, lists up to date",
    "performance.md, Where goals are missed: 6 ms to the index, less what sending takes")
ACCEPT_OP: Final = Cost(
    19.7e-6, "us", "the same, for each operation at a random place of a list of a million",
    "performance.md, From publish to found: 1,000 operations 21.1 ms, one 1.4 ms")
BULK_SEND_ENTRY: Final = Cost(
    1.72e-6, "us", "to send an entry of a first sync", "performance.md, Processor time")
BULK_ACCEPT_ENTRY: Final = Cost(
    2.48e-6, "us", "to verify and keep an entry of a first sync", "performance.md, Processor time")
CHECK_ENTRY: Final = Cost(
    1 / 446e3, "us", "to check an entry behind acceptance, or in `fsck`",
    "performance.md, Loading: 446k/s")
PUBLISH_ENTRY: Final = Cost(
    7.55e-6, "us", "to import and publish an entry", "performance.md, Processor time: 4.67 + 2.88")
WIRE_ENTRY: Final = Cost(
    33.1, "bytes", "on the wire for an entry with a single SHA-256", "performance.md, Bytes")
DISK_ENTRY: Final = Cost(
    88.2, "bytes", "in the database for an entry", "performance.md, Bytes per entry")
MEMORY: Final = Cost(
    199 * 2**20, "MiB", "of memory at the peak of a process",
    "performance.md, Processor time and memory")
CONNECT: Final = Cost(5e-3, "ms", "processor time of one handshake, at each end", "assumed")
FRAME: Final = Cost(
    150, "bytes", "around a frame: HTTP/2, TLS records, TCP/IP of a small one", "assumed")
HEARTBEAT: Final = Cost(
    120, "bytes", "a heartbeat and its acknowledgement", "assumed; one each 15 s")
HEARTBEAT_SECONDS: Final = 15.0
PAGE: Final = 4096
"""Bytes of a page of the database."""

COSTS: Final = (
    SEND, SEND_BYTE, ACCEPT, ACCEPT_OP, BULK_SEND_ENTRY, BULK_ACCEPT_ENTRY, CHECK_ENTRY,
    PUBLISH_ENTRY, WIRE_ENTRY, DISK_ENTRY, MEMORY, CONNECT, FRAME, HEARTBEAT,
)
# fmt: on
