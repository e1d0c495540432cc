"""Server side of mutual TLS: who may open a connection at all.

Each peer's certificate is pinned as its own root; there is no certificate authority. The peers are
read again for every connection, so a peer that is added or removed while the node serves is known
at once. What a connection may do is decided for every call by `node.rpc.peers`.
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
    """Hands gRPC this node's certificate and those that its peers may connect with."""

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
        """Close the store. Connections are refused or taken as before afterwards."""
        with self._lock:
            self._store.close()

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what is in force for a connection that comes in now; None for what was before."""
        try:
            with self._lock:
                roots = self._load_roots()
                if roots == self._roots:
                    return None
                configuration = self._configure(roots)
                self._roots = roots
        except NodeError as error:
            # gRPC keeps the configuration it has; calls are authenticated against the store anyway.
            _log.warning("peer_certificates_unreadable", detail=str(error))
            return None
        return configuration

    def _load_roots(self) -> bytes:
        """Return the certificates of all peers; without those that are damaged here.

        With one that it cannot read, gRPC would take no connection from anybody.
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
        # No peers: an empty bundle refuses everyone, where None would mean the system's roots.
        return grpc.ssl_server_certificate_configuration([self._pair], root_certificates=roots)


def _is_whole(peer: Peer) -> bool:
    """Say whether a peer's certificate is the one that was taken from its invitation."""
    try:
        der = ssl.PEM_cert_to_DER_cert(peer.certificate.strip())
    except ValueError:
        return False
    return sha256(der).digest() == peer.certificate_sha256
