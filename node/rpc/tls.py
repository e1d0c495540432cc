"""The server side of mutual TLS: who may open a connection at all.

Each peer's certificate is pinned as its own root; there is no certificate authority. The peers are
read again for every connection, so adding or removing a peer takes effect at once, even while the
node serves. For every call, `node.rpc.peers` decides whether the connection may make it.
"""

from __future__ import annotations

import ssl
import threading
from hashlib import sha256
from pathlib import Path

import grpc

from federation.names import OrgName
from node.clock import Clock
from node.errors import NodeError
from node.store import orgs
from node.store.connection import Store
from node.store.orgs import Peer
from node.telemetry.logs import get_logger

_log = get_logger()


class PeerCertificates:
    """Gives gRPC this node's certificate and those with which its peers may connect."""

    def __init__(self, path: Path, clock: Clock, *, key: bytes, certificate: bytes) -> None:
        """Open the store.

        Args:
            path: the store.
            clock: the store's clock.
            key: this node's TLS key, PEM.
            certificate: this node's TLS certificate, PEM.

        Raises:
            StoreError: the store cannot be opened.
        """
        self._store = Store.open_reader(path, clock)
        self._pair = (key, certificate)
        # gRPC calls `_fetch` from its own threads; one connection serves one thread at a time.
        self._lock = threading.Lock()
        self._roots: bytes | None = None
        self._left_out: set[OrgName] = set()

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of the server."""
        with self._lock:
            self._roots = self._load_roots()
        return grpc.dynamic_ssl_server_credentials(
            self._configure(self._roots),
            self._fetch,  # type: ignore[arg-type]  # None is allowed, as gRPC's documentation says
            require_client_authentication=True,
        )

    def close(self) -> None:
        """Close the store. Afterwards, connections are accepted or refused as before."""
        with self._lock:
            self._store.close()

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration for a new connection; None if it has not changed."""
        try:
            with self._lock:
                roots = self._load_roots()
                if roots == self._roots:
                    return None
                configuration = self._configure(roots)
                self._roots = roots
        except NodeError as error:
            # gRPC keeps its configuration; calls are authenticated against the store anyway.
            _log.warning("peer_certificates_unreadable", detail=str(error))
            return None
        return configuration

    def _load_roots(self) -> bytes:
        """Return the certificates of all peers, except those that are damaged here.

        With one that it cannot read, gRPC would not accept any connection.
        """
        roots = []
        for peer in orgs.iter_peers(self._store.connection):
            if _is_whole(peer):
                roots.append(peer.certificate.strip().encode() + b"\n")
                self._left_out.discard(peer.org)
            elif peer.org not in self._left_out:
                self._left_out.add(peer.org)
                _log.error("peer_certificate_damaged", peer=peer.org)
        return b"".join(roots)

    def _configure(self, roots: bytes) -> grpc.ServerCertificateConfiguration:
        # Without peers, an empty bundle refuses everyone; None would mean the system's roots.
        return grpc.ssl_server_certificate_configuration([self._pair], root_certificates=roots)


def _is_whole(peer: Peer) -> bool:
    """Return whether a peer's certificate is the one from its invitation."""
    try:
        der = ssl.PEM_cert_to_DER_cert(peer.certificate.strip())
    except ValueError:
        return False
    return sha256(der).digest() == peer.certificate_sha256
