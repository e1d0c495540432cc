"""Who may call: the one certificate that a peer is enrolled with, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no types

from federation.v1.log_service_pb2 import ListLogsRequest, ListLogsResponse
from node._grpc.federation.v1.log_service_pb2_grpc import LogServiceStub
from node.sync.client import TlsIdentity
from tests.node.support.peering import Site, Sites, acquaint, published, run

DIGITAL_SIGNATURE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


async def ask(channel: grpc.aio.Channel) -> ListLogsResponse:
    return await LogServiceStub(channel).ListLogs(ListLogsRequest(), timeout=5)


async def refusal(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel)
    return caught.value


def test_an_enrolled_peer_is_answered(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("hotline.example"), sites("platform.example")
        owner.own(published("hotline.example/main", 1))
        acquaint(owner, reader)
        async with owner.serving(), reader.channel(owner) as channel:
            assert [info.origin for info in (await ask(channel)).logs] == ["hotline.example/main"]

    run(main())


def test_an_unknown_certificate_does_not_get_through_the_handshake(sites: Sites) -> None:
    async def main() -> None:
        owner, friend, stranger = map(sites, ("a.example", "b.example", "c.example"))
        owner.enroll(friend)
        async with owner.serving(), stranger.channel(owner) as channel:
            assert (await refusal(channel)).code() is grpc.StatusCode.UNAVAILABLE

    run(main())


def test_without_any_peer_nobody_gets_through_the_handshake(sites: Sites) -> None:
    async def main() -> None:
        owner, stranger = sites("a.example"), sites("b.example")
        async with owner.serving(), stranger.channel(owner) as channel:
            assert (await refusal(channel)).code() is grpc.StatusCode.UNAVAILABLE

    run(main())


def test_a_peer_that_is_added_while_serving_is_answered(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        async with owner.serving():
            async with reader.channel(owner) as channel:
                await refusal(channel)
            owner.enroll(reader)
            async with reader.channel(owner, ("grpc.use_local_subchannel_pool", 1)) as channel:
                await ask(channel)

    run(main())


def test_a_peer_that_is_removed_is_refused_on_its_open_connection(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        owner.enroll(reader)
        async with owner.serving(), reader.channel(owner) as channel:
            await ask(channel)
            owner.expel(reader)
            error = await refusal(channel)
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert error.details() == "this node knows no peer with your certificate"

    run(main())


@pytest.mark.parametrize(
    "harm",
    [
        "certificate = replace(certificate, 'MII', 'MIH')",
        "certificate = replace(certificate, 'BEGIN', 'BEGJN')",
        "certificate_sha256 = zeroblob(32)",
    ],
)
def test_a_certificate_that_is_damaged_here_keeps_nobody_else_out(sites: Sites, harm: str) -> None:
    async def main() -> None:
        owner, spoiled, reader = map(sites, ("a.example", "b.example", "c.example"))
        owner.enroll(spoiled)
        owner.enroll(reader)
        owner.store.connection.execute(
            f"UPDATE peer SET {harm} WHERE org = (SELECT org FROM org WHERE name = ?)",  # noqa: S608
            (spoiled.org,),
        )
        async with owner.serving():
            async with reader.channel(owner) as channel:
                await ask(channel)
            async with spoiled.channel(owner) as channel:
                assert (await refusal(channel)).code() is grpc.StatusCode.UNAVAILABLE

    run(main())


def issue(issuer: TlsIdentity, org: str) -> TlsIdentity:
    """Issue a certificate in another org's name with the key of a pinned certificate."""
    parent = x509.load_pem_x509_certificate(issuer.certificate)
    parent_key = load_pem_private_key(issuer.key, None)
    assert isinstance(parent_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    child = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, org)]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(org)]), critical=False)
        .sign(parent_key, hashes.SHA256())
    )
    chain = child.public_bytes(Encoding.PEM) + issuer.certificate
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return TlsIdentity(key=pem, certificate=chain)


def self_signed(org: str, *, with_key_usage: bool) -> TlsIdentity:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, org)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(org)]), critical=False)
    )
    if with_key_usage:
        builder = builder.add_extension(DIGITAL_SIGNATURE, critical=True)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return TlsIdentity(key=pem, certificate=certificate)


@pytest.mark.parametrize(
    ("with_key_usage", "code"),
    [
        # TLS itself takes this one: only the comparison of certificates refuses it.
        (False, grpc.StatusCode.PERMISSION_DENIED),
        (True, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_a_certificate_that_a_pinned_peer_issues_for_another_org_is_refused(
    sites: Sites, with_key_usage: bool, code: grpc.StatusCode
) -> None:
    async def main() -> None:
        owner, forger, victim = map(sites, ("a.example", "b.example", "c.example"))
        forger.identity = self_signed("b.example", with_key_usage=with_key_usage)
        owner.own(published("a.example/main", 1), audience=[victim.org])
        owner.enroll(forger)
        owner.enroll(victim)
        async with owner.serving():
            async with victim.channel(owner) as channel:
                assert len((await ask(channel)).logs) == 1
            forger.identity = issue(forger.identity, victim.org)
            async with forger.channel(owner) as channel:
                assert (await refusal(channel)).code() is code

    run(main())


def test_health_is_told_to_enrolled_peers_only(sites: Sites) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        owner.enroll(reader)
        async with owner.serving(), reader.channel(owner) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="federation.v1.LogService")
            answer = await health.Check(request, timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            owner.expel(reader)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(request, timeout=5)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    run(main())


# --- TLS versions -----------------------------------------------------------------------------


def call_by_hand(owner: Site, reader: Site, folder: Path, version: ssl.TLSVersion) -> bytes:
    """Call ListLogs over a TLS version of choice, which gRPC's own client does not offer."""
    (folder / "key.pem").write_bytes(reader.identity.key)
    (folder / "crt.pem").write_bytes(reader.identity.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(cadata=owner.identity.certificate.decode())
    context.load_cert_chain(folder / "crt.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])

    def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
        head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
        return head + stream.to_bytes(4, "big") + payload

    def header(name: bytes, value: bytes) -> bytes:
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = b"".join(
        (
            header(b":method", b"POST"),
            header(b":scheme", b"https"),
            header(b":path", b"/federation.v1.LogService/ListLogs"),
            header(b":authority", owner.org.encode()),
            header(b"content-type", b"application/grpc"),
            header(b"grpc-timeout", b"5S"),
            header(b"te", b"trailers"),
        )
    )
    request = b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(4, 0, 0),
            frame(1, 4, 1, headers),
            frame(0, 1, 1, bytes(5)),
        )
    )
    host, _, port = owner.address.rpartition(":")
    received = b""
    with (
        socket.create_connection((host, int(port)), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=owner.org) as connection,
    ):
        connection.sendall(request)
        while b"grpc-status" not in received:
            data = connection.recv(65_536)
            if not data:
                break
            received += data
    return received


def test_tls_1_2_is_refused(sites: Sites, tmp_path: Path) -> None:
    async def main() -> None:
        owner, reader = sites("a.example"), sites("b.example")
        owner.own(published("a.example/main", 1))
        owner.enroll(reader)
        async with owner.serving():
            older, newer = [
                await asyncio.to_thread(call_by_hand, owner, reader, tmp_path, version)
                for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
            ]
        assert b"TLS 1.3 is needed" in older
        assert b"a.example/main" not in older
        assert b"a.example/main" in newer

    run(main())
