"""A peer that writes HTTP/2 by hand: for what gRPC's own client is too polite to do."""

from __future__ import annotations

import asyncio
import enum
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.node.support.peering import Site

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Kind(enum.IntEnum):
    """Types of frames (RFC 9113, section 6)."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8


@dataclass(frozen=True)
class Frame:
    kind: Kind
    flags: int
    stream: int
    payload: bytes


def parse_settings(payload: bytes) -> dict[int, int]:
    return {
        int.from_bytes(payload[at : at + 2]): int.from_bytes(payload[at + 2 : at + 6])
        for at in range(0, len(payload), 6)
    }


def tls_context(owner: Site, reader: Site) -> ssl.SSLContext:
    """Return what the reader opens a connection to the owner with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=owner.identity.certificate.decode())
    with TemporaryDirectory() as name:
        key, certificate = Path(name, "key"), Path(name, "certificate")
        key.write_bytes(reader.identity.key)
        certificate.write_bytes(reader.identity.certificate)
        context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context


class Connection:
    """An open connection. Frames that come are what the test asks for, nothing is answered."""

    def __init__(
        self, org: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._org = org
        self._reader = reader
        self._writer = writer

    def send(self, kind: Kind, flags: int, stream: int, payload: bytes = b"") -> None:
        head = len(payload).to_bytes(3) + bytes([kind, flags])
        self._writer.write(head + stream.to_bytes(4) + payload)

    def begin(self, method: str, stream: int) -> None:
        """Begin a call, and leave its request open."""
        fields = (
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":path", method.encode()),
            (b":authority", self._org.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"grpc-timeout", b"60S"),
        )
        block = b"".join(
            b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
            for name, value in fields
        )
        self.send(Kind.HEADERS, END_HEADERS, stream, block)

    def request(self, stream: int, message: bytes) -> None:
        """Send a call's request."""
        self.send(Kind.DATA, END_STREAM, stream, b"\x00" + len(message).to_bytes(4) + message)

    async def read(self, *kinds: Kind, seconds: float = 5.0) -> Frame:
        """Return the next frame of one of these kinds.

        Raises:
            EOFError: the other side has closed the connection.
        """
        async with asyncio.timeout(seconds):
            while True:
                try:
                    head = await self._reader.readexactly(9)
                    payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                except ConnectionError as error:
                    raise EOFError from error
                if head[3] in kinds:
                    return Frame(Kind(head[3]), head[4], int.from_bytes(head[5:]), payload)

    async def wait_closed(self, seconds: float = 5.0) -> None:
        """Wait until the other side has closed the connection."""
        async with asyncio.timeout(seconds):
            try:
                while await self._reader.read(65_536):
                    pass
            except ConnectionError:
                return


@asynccontextmanager
async def connected(
    owner: Site, reader: Site, *, window: int | None = None
) -> AsyncIterator[Connection]:
    """Connect as the reader; `window` is how many bytes each stream may send unasked."""
    host, _, port = owner.address.rpartition(":")
    incoming, outgoing = await asyncio.open_connection(
        host, int(port), ssl=tls_context(owner, reader), server_hostname=owner.org
    )
    try:
        connection = Connection(owner.org, incoming, outgoing)
        settings = b"" if window is None else INITIAL_WINDOW_SIZE.to_bytes(2) + window.to_bytes(4)
        outgoing.write(_PREFACE)
        connection.send(Kind.SETTINGS, 0, 0, settings)
        yield connection
    finally:
        outgoing.transport.abort()
