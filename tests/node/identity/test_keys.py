"""Keys are for their owner alone, certificates for one node alone."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import warnings
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from federation import wire
from federation.keys import SigningKey, verify
from federation.names import parse_org
from federation.trust.orgroot import Role
from node.clock import SystemClock
from node.errors import ConfigError
from node.home import Home
from node.identity import create
from node.identity.certificate import (
    build_certificate,
    certificate_not_after,
    certificate_sha256,
    load_certificate,
    load_tls_key,
    verify_certificate,
)
from node.identity.create import CreatedKeys, create_keys, create_org_root
from node.identity.keys import format_key, load_signer

_ORG = parse_org("hotline.example")
_OTHER = parse_org("ngo.example")
_NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
_DAY_MS = 24 * 60 * 60 * 1000
_PEM = build_certificate(_ORG, _NOW_MS)[1]
_DER = ssl.PEM_cert_to_DER_cert(_PEM)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def _certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


# --- creating ---------------------------------------------------------------------------------


def test_what_was_created_is_what_is_loaded(home: Home) -> None:
    created = create_keys(home, _ORG, _NOW_MS)
    for path, key in (
        (home.root_key, created.root),
        (home.publisher_key, created.publisher),
        (home.log_key, created.log),
    ):
        loaded = load_signer(path)
        assert loaded.public_key == key.public_key
        verify(loaded.public_key, loaded.sign(b"message"), b"message")
    assert load_certificate(home.tls_certificate) == created.certificate
    assert "PRIVATE KEY" in load_tls_key(home.tls_key)


def test_every_key_is_another(home: Home, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = create_keys(Home(tmp_path / "second"), _ORG, _NOW_MS)
    first = create_keys(home, _ORG, _NOW_MS)
    keys = [key.public_key for one in (first, second) for key in (one.root, one.publisher, one.log)]
    assert len(set(keys)) == 6
    assert certificate_sha256(first.certificate) != certificate_sha256(second.certificate)


def test_key_files_are_for_their_owner_alone_whatever_the_umask(home: Home) -> None:
    before = os.umask(0)
    try:
        create_keys(home, _ORG, _NOW_MS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    names = {"root.key", "publisher.key", "log.key", "tls.key", "tls.crt"}
    assert {path.name for path in home.keys.iterdir()} == names
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in home.keys.iterdir())


def test_key_files_are_pkcs8_that_other_tools_read(home: Home) -> None:
    created = create_keys(home, _ORG, _NOW_MS)
    assert home.root_key.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    shown = subprocess.run(
        ["openssl", "pkey", "-in", str(home.root_key), "-pubout", "-outform", "DER"],
        check=True,
        capture_output=True,
    ).stdout
    assert shown.endswith(created.root.public_key)


@pytest.mark.parametrize("name", ["root.key", "publisher.key", "log.key", "tls.key", "tls.crt"])
def test_keys_are_never_overwritten(home: Home, name: str) -> None:
    home.keys.mkdir(mode=0o700)
    (home.keys / name).write_text("precious")
    with pytest.raises(ConfigError, match=f"{name} exists already"):
        create_keys(home, _ORG, _NOW_MS)
    assert [path.name for path in home.keys.iterdir()] == [name]
    assert (home.keys / name).read_text() == "precious"


def test_a_key_that_appears_meanwhile_is_not_overwritten_either(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        create._write_new(path, "new")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["precious"]


def test_a_dangling_link_is_not_written_through(home: Home, tmp_path: Path) -> None:
    home.keys.mkdir(mode=0o700)
    home.log_key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"log\.key exists already"):
        create_keys(home, _ORG, _NOW_MS)
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_folder_that_others_may_enter_is_refused(home: Home) -> None:
    home.keys.mkdir()
    home.keys.chmod(0o750)
    with pytest.raises(ConfigError, match="got permissions 0750") as caught:
        create_keys(home, _ORG, _NOW_MS)
    assert caught.value.hint == f"run: chmod 700 {home.keys}"
    assert list(home.keys.iterdir()) == []


def test_a_missing_home_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        create_keys(Home(tmp_path / "missing"), _ORG, _NOW_MS)


# --- loading ----------------------------------------------------------------------------------


def _write_key(
    path: Path,
    key: (
        ed25519.Ed25519PrivateKey
        | ec.EllipticCurvePrivateKey
        | rsa.RSAPrivateKey
        | x25519.X25519PrivateKey
    ),
    encryption: KeySerializationEncryption | None = None,
) -> Path:
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    )
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o602])
def test_a_key_that_others_may_use_is_refused_with_the_command_that_helps(
    tmp_path: Path, mode: int
) -> None:
    path = _write_key(tmp_path / "my root.key", ed25519.Ed25519PrivateKey.generate())
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"got permissions {mode:04o}") as caught:
        load_signer(path)
    assert caught.value.hint == f"run: chmod 600 '{path}'"
    subprocess.run(caught.value.hint.removeprefix("run: "), shell=True, check=True)  # noqa: S602
    load_signer(path)


def test_a_read_only_key_is_fine(tmp_path: Path) -> None:
    path = _write_key(tmp_path / "root.key", ed25519.Ed25519PrivateKey.generate())
    path.chmod(0o400)
    load_signer(path)


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_written_as_other_programs_write_it(seed: bytes) -> None:
    theirs = ed25519.Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    assert format_key(seed).encode() == theirs


def test_a_key_that_another_program_made_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)],
        check=True,
        capture_output=True,
    )
    path.chmod(0o600)
    theirs = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(theirs, ed25519.Ed25519PrivateKey)
    expected = SigningKey.from_seed(theirs.private_bytes_raw()).public_key
    assert load_signer(path).public_key == expected
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_signer(path).public_key == expected


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for key, kind in (
        (ec.generate_private_key(ec.SECP256R1()), "kind EC"),
        (rsa.generate_private_key(public_exponent=65_537, key_size=2_048), "kind RSA"),
        (x25519.X25519PrivateKey.generate(), "another kind"),
    ):
        with pytest.raises(ConfigError, match=f"got a private key of {kind}, expected Ed25519"):
            load_signer(_write_key(tmp_path / "root.key", key))


def test_an_encrypted_key_is_refused_and_named_as_such(tmp_path: Path) -> None:
    path = _write_key(
        tmp_path / "root.key",
        ed25519.Ed25519PrivateKey.generate(),
        BestAvailableEncryption(b"passphrase"),
    )
    with pytest.raises(ConfigError, match="encrypted with a passphrase"):
        load_signer(path)
    with pytest.raises(ConfigError, match="unencrypted"):
        load_tls_key(path)


_SECRET = "SECRETSECRETSECRET"


@pytest.mark.parametrize(
    "text",
    [
        "",
        _SECRET,
        f"-----BEGIN PRIVATE KEY-----\n{_SECRET}\n-----END PRIVATE KEY-----\n",
        f"-----BEGIN PRIVATE KEY-----\n{_SECRET}",
        "\0" * 100,
        "x" * 70_000,
    ],
)
def test_garbage_is_refused_without_repeating_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "root.key"
    path.write_text(text)
    path.chmod(0o600)
    for load in (load_signer, load_tls_key):
        with pytest.raises(ConfigError, match=r"root\.key") as caught:
            load(path)
        assert _SECRET not in str(caught.value) + caught.value.hint
        # Nor does a traceback show what the parser said about it.
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_certificate_is_no_private_key(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    path.write_text(build_certificate(_ORG, _NOW_MS)[1])
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not a private key"):
        load_signer(path)


def test_a_missing_file_and_one_that_is_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_signer(tmp_path / "root.key")
    with pytest.raises(ConfigError, match="does not exist"):
        load_certificate(tmp_path / "tls.crt")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        load_signer(tmp_path / "fifo")
    with pytest.raises(ConfigError):
        load_signer(tmp_path)


def test_a_tls_key_must_be_on_p256(tmp_path: Path) -> None:
    path = _write_key(tmp_path / "tls.key", ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(ConfigError, match="P-256"):
        load_tls_key(path)


# --- certificates -----------------------------------------------------------------------------


def test_a_certificate_is_for_tls_of_one_node_and_nothing_else() -> None:
    key_pem, pem = build_certificate(_ORG, _NOW_MS)
    certificate = _certificate(pem)
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert public_key == load_pem_private_key(key_pem.encode(), None).public_key()
    assert isinstance(public_key.curve, ec.SECP256R1)
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.key_agreement
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [_ORG]
    (common_name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == _ORG
    verify_certificate(pem, _ORG, _NOW_MS)


def test_a_certificate_is_backdated_and_valid_for_3650_days() -> None:
    certificate = _certificate(build_certificate(_ORG, _NOW_MS)[1])
    start = datetime.fromtimestamp(_NOW_MS / 1000, UTC) - timedelta(minutes=5)
    assert certificate.not_valid_before_utc == start
    assert certificate.not_valid_after_utc == start + timedelta(days=3650)


def test_the_longest_name_of_an_organization_fits() -> None:
    org = parse_org(".".join(["a" * 49] * 5) + ".ab")
    assert len(org) == 252
    verify_certificate(build_certificate(org, _NOW_MS)[1], org, _NOW_MS)


def test_the_digest_is_that_of_the_der_form(tmp_path: Path) -> None:
    pem = build_certificate(_ORG, _NOW_MS)[1]
    path = tmp_path / "tls.crt"
    path.write_text(pem)
    der = subprocess.run(
        ["openssl", "x509", "-in", str(path), "-outform", "DER"], check=True, capture_output=True
    ).stdout
    assert certificate_sha256(pem) == sha256(der).digest()


def test_a_certificate_counts_from_its_start_to_its_end() -> None:
    pem = build_certificate(_ORG, _NOW_MS)[1]
    end = certificate_not_after(pem)
    assert end == _NOW_MS - 5 * 60 * 1000 + 3650 * _DAY_MS
    verify_certificate(pem, _ORG, end)
    with pytest.raises(ConfigError, match="expired at 2035-"):
        verify_certificate(pem, _ORG, end + 1)
    with pytest.raises(ConfigError, match="not valid before"):
        verify_certificate(pem, _ORG, _NOW_MS - _DAY_MS)


def _sign(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey,
    org: str = _ORG,
    *,
    usage: x509.KeyUsage | None = None,
    ca: bool | None = False,
    issuer: str | None = None,
    issuer_key: ec.EllipticCurvePrivateKey | None = None,
) -> str:
    """Make a certificate as somebody else could."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, org)])
    issuer_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or org)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=10))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(org)]), critical=False)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    if ca is not None:
        builder = builder.add_extension(
            x509.BasicConstraints(ca=ca, path_length=None), critical=True
        )
    signer = issuer_key or key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm).public_bytes(Encoding.PEM).decode()


def _usage(*, cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def test_certificates_that_a_peer_must_not_be_called_with_are_refused() -> None:
    now_ms = SystemClock().now_ms()
    key = ec.generate_private_key(ec.SECP256R1())
    good = _sign(key, usage=_usage())
    verify_certificate(good, _ORG, now_ms)
    for pem, message in (
        (_sign(ed25519.Ed25519PrivateKey.generate(), usage=_usage()), "P-256"),
        (_sign(ec.generate_private_key(ec.SECP384R1()), usage=_usage()), "P-256"),
        (_sign(key), "not that of a node"),
        (_sign(key, usage=_usage(), ca=None), "not that of a node"),
        (_sign(key, usage=_usage(), ca=True), "more than identify one node"),
        (_sign(key, usage=_usage(cert_sign=True)), "more than identify one node"),
        (_sign(key, "ngo.example", usage=_usage()), "not for the name hotline.example"),
        (
            _sign(
                key,
                usage=_usage(),
                issuer="ca.example",
                issuer_key=ec.generate_private_key(ec.SECP256R1()),
            ),
            "not signed by its own key",
        ),
        (good + good, "exactly one block"),
        ("text\n" + good, "exactly one block"),
        ("", "no readable certificate"),
        ("\ufffd", "no readable certificate"),
    ):
        with pytest.raises(ConfigError, match=message):
            verify_certificate(pem, _ORG, now_ms)


@given(at=st.integers(0), bit=st.integers(0, 7))
def test_a_damaged_certificate_is_refused_with_one_error(at: int, bit: int) -> None:
    der = bytearray(_DER)
    der[at % len(der)] ^= 1 << bit
    with warnings.catch_warnings():
        # About forms that it reads nevertheless.
        warnings.simplefilter("ignore")
        try:
            verify_certificate(ssl.DER_cert_to_PEM_cert(bytes(der)), _ORG, _NOW_MS)
        except ConfigError:
            return
    # The signature has more than one encoding; what it is made over has not.
    assert at % len(der) > len(_certificate(_PEM).tbs_certificate_bytes)


@contextmanager
def _serve(key: str, certificate: str, roots: str) -> Iterator[int]:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        return bytes(context.auth_context()["x509_pem_cert"][0])

    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"M": handler}),))
    credentials = grpc.ssl_server_credentials(
        [(key.encode(), certificate.encode())], roots.encode(), require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def _call(port: int, key: str, certificate: str, server_certificate: str) -> bytes:
    credentials = grpc.ssl_channel_credentials(
        server_certificate.encode(), key.encode(), certificate.encode()
    )
    options = [("grpc.ssl_target_name_override", _ORG)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/t.T/M")
        return call(b"", timeout=5)


def test_two_nodes_talk_over_mutual_tls_with_nothing_but_each_others_certificates() -> None:
    now_ms = SystemClock().now_ms()
    server_key, server = build_certificate(_ORG, now_ms)
    client_key, client = build_certificate(_OTHER, now_ms)
    stranger_key, stranger = build_certificate(_OTHER, now_ms)
    with _serve(server_key, server, client) as port:
        assert _call(port, client_key, client, server).decode() == client
        with pytest.raises(grpc.RpcError):
            _call(port, stranger_key, stranger, server)


def test_the_owner_of_a_certificate_cannot_issue_itself_another_name() -> None:
    now_ms = SystemClock().now_ms()
    server_key, server = build_certificate(_ORG, now_ms)
    client_key, client = build_certificate(_OTHER, now_ms)
    issuer_key = load_pem_private_key(client_key.encode(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    forged_key = ec.generate_private_key(ec.SECP256R1())
    forged = _sign(
        forged_key, "victim.example", usage=_usage(), issuer=_OTHER, issuer_key=issuer_key
    )
    forged_pem = forged_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    ).decode()
    with _serve(server_key, server, client) as port, pytest.raises(grpc.RpcError):
        _call(port, forged_pem, forged + client, server)


# --- org roots --------------------------------------------------------------------------------


def test_the_org_root_names_the_keys_and_is_signed_by_its_own_root_key(home: Home) -> None:
    created = create_keys(home, _ORG, _NOW_MS)
    digest = certificate_sha256(created.certificate)
    opened = wire.open_org_root(_org_root(created, digest))
    document = opened.document
    assert (document.org, document.version, document.created_ms) == (_ORG, 1, _NOW_MS)
    assert document.tls_certificates == (digest,)
    expected = {
        Role.ROOT: created.root,
        Role.PUBLISHER: created.publisher,
        Role.LOG: created.log,
    }
    for role, key in expected.items():
        assert document.roles[role].public_keys == (key.public_key,)
        assert document.roles[role].threshold == 1
    assert [item.key_id for item in opened.envelope.signatures] == [created.root.key_id]


def _org_root(created: CreatedKeys, digest: bytes) -> bytes:
    return create_org_root(
        _ORG,
        root=created.root,
        publisher=created.publisher,
        log=created.log,
        certificate_sha256=digest,
        now_ms=_NOW_MS,
    )


def test_an_org_root_that_peers_would_refuse_is_not_made() -> None:
    root, log = SigningKey.from_seed(b"r" * 32), SigningKey.from_seed(b"l" * 32)
    for publisher, digest, message in (
        (root, bytes(32), "one key in two places"),
        (SigningKey.from_seed(b"p" * 32), bytes(20), "not SHA-256"),
    ):
        with pytest.raises(ConfigError, match=message):
            create_org_root(
                _ORG,
                root=root,
                publisher=publisher,
                log=log,
                certificate_sha256=digest,
                now_ms=_NOW_MS,
            )
