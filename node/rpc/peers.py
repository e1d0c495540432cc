"""Who calls: the peer whose certificate, byte for byte, opened the connection.

Names in certificates are never looked at. A peer chooses its own certificate, so the holder of one
enrolled key could issue a certificate in the name of another peer, and TLS would accept it.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import grpc

from federation.names import OrgName
from node.rpc.status import CallRefusedError
from node.store import orgs
from node.store.connection import Store

_TLS_VERSION: Final = b"TLSv1.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An enrolled peer, as it was known when the call began.

    Attributes:
        org: its organization.
        certificate_sha256: SHA-256 of the DER form of the certificate that it showed.
    """

    org: OrgName
    certificate_sha256: bytes


def certificate_digest(auth_context: Mapping[str, Iterable[bytes]]) -> bytes:
    """Return the SHA-256 of the certificate that a connection was opened with.

    Args:
        auth_context: what gRPC says about the connection.

    Raises:
        CallRefusedError: the connection is not TLS 1.3 with one client certificate.
    """

    def only(key: str) -> bytes | None:
        values = list(auth_context.get(key, ()))
        return values[0] if len(values) == 1 else None

    if only("transport_security_type") != b"ssl" or only("ssl_tls_version") != _TLS_VERSION:
        raise CallRefusedError(
            grpc.StatusCode.PERMISSION_DENIED, "TLS_VERSION", "TLS 1.3 is needed"
        )
    pem = only("x509_pem_cert")
    if pem is None:
        raise unknown_peer()
    try:
        return sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))).digest()
    except ValueError as error:
        raise unknown_peer() from error


def find_caller(store: Store, digest: bytes) -> Caller:
    """Return the peer that is enrolled with that certificate.

    Raises:
        CallRefusedError: there is no such peer.
    """
    for peer in orgs.iter_peers(store.connection):
        if peer.certificate_sha256 == digest:
            return Caller(org=peer.org, certificate_sha256=digest)
    raise unknown_peer()


def check_enrolled(store: Store, caller: Caller) -> None:
    """Check that the caller is still enrolled with the same certificate.

    Raises:
        CallRefusedError: it is not.
    """
    peer = orgs.load_peer(store.connection, caller.org)
    if peer is None or peer.certificate_sha256 != caller.certificate_sha256:
        raise unknown_peer()


def unknown_peer() -> CallRefusedError:
    """Return the refusal of a certificate that no peer is enrolled with."""
    return CallRefusedError(
        grpc.StatusCode.PERMISSION_DENIED,
        "UNKNOWN_PEER",
        "this node knows no peer with your certificate",
    )
