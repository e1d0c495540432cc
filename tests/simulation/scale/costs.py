"""What a node and a network cost: every number that the simulation does not work out by itself.

Seconds are of one core of the machine of docs/performance.md. Each measured number has its source;
each that is assumed says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_PERFORMANCE: Final = "performance.md"
_OPERATE: Final = "operate.md"


@dataclass(frozen=True, slots=True)
class Cost:
    """One number.

    Attributes:
        value: the number, in seconds or bytes.
        what: what it is of.
        unit: how it is written.
        scale: what the value is multiplied by to be written in that unit.
        source: where it was measured, or that it is assumed.
    """

    value: float
    what: str
    unit: str
    scale: float
    source: str


SEND: Final = Cost(
    1.05e-3,
    "processor time to send one frame to one subscriber",
    "ms",
    1e3,
    f"{_PERFORMANCE}, Many live subscribers: 218 ms for 200 streams, 9.5 ms for one",
)
SEND_BYTE: Final = Cost(
    1.8e-9,
    "the same, for each byte",
    "ns",
    1e9,
    f"{_OPERATE}, Network: 0.24 s for 10,000 entries of 33 bytes to 200, 0.12 s for one",
)
ACCEPT: Final = Cost(
    3.5e-3,
    "to receive, verify and commit what came together, lists up to date",
    "ms",
    1e3,
    f"{_PERFORMANCE}, Where goals are missed: 6 ms to the index, less what sending takes",
)
ACCEPT_OP: Final = Cost(
    19.7e-6,
    "the same, for each operation at a random place of a list of a million",
    "us",
    1e6,
    f"{_PERFORMANCE}, From publish to found: 1,000 operations 21.1 ms, one 1.4 ms",
)
BULK_SEND_ENTRY: Final = Cost(
    1.72e-6, "to send an entry of a first sync", "us", 1e6, f"{_PERFORMANCE}, Processor time"
)
BULK_ACCEPT_ENTRY: Final = Cost(
    2.48e-6,
    "to verify and keep an entry of a first sync",
    "us",
    1e6,
    f"{_PERFORMANCE}, Processor time",
)
CHECK_ENTRY: Final = Cost(
    1 / 446e3,
    "to check an entry behind acceptance, or in `fsck`",
    "us",
    1e6,
    f"{_PERFORMANCE}, Loading: 446k/s",
)
PUBLISH_ENTRY: Final = Cost(
    7.55e-6,
    "to import and publish an entry",
    "us",
    1e6,
    f"{_PERFORMANCE}, Processor time: 4.67 + 2.88",
)
WIRE_ENTRY: Final = Cost(
    33.1, "on the wire for an entry with a single SHA-256", "bytes", 1, f"{_PERFORMANCE}, Bytes"
)
DISK_ENTRY: Final = Cost(
    88.2, "in the database for an entry", "bytes", 1, f"{_PERFORMANCE}, Bytes per entry"
)
MEMORY: Final = Cost(
    199 * 2**20,
    "of memory at the peak of a process",
    "MiB",
    2**-20,
    f"{_PERFORMANCE}, Processor time and memory",
)
CONNECT: Final = Cost(5e-3, "processor time of one handshake, at each end", "ms", 1e3, "assumed")
FRAME: Final = Cost(
    150, "around a frame: HTTP/2, TLS records, TCP/IP of a small one", "bytes", 1, "assumed"
)
HEARTBEAT: Final = Cost(
    120, "a heartbeat and its acknowledgement", "bytes", 1, "assumed; one each 15 s"
)
HEARTBEAT_SECONDS: Final = 15.0
PAGE: Final = 4096
"""Bytes of a page of the database."""

COSTS: Final = (
    SEND, SEND_BYTE, ACCEPT, ACCEPT_OP, BULK_SEND_ENTRY, BULK_ACCEPT_ENTRY, CHECK_ENTRY,
    PUBLISH_ENTRY, WIRE_ENTRY, DISK_ENTRY, MEMORY, CONNECT, FRAME, HEARTBEAT,
)  # fmt: skip
