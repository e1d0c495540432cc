"""The node's keys: Ed25519 role keys, the TLS certificate, and the org root that names them.

Key files are PKCS#8 PEM without a passphrase, so what protects them is who may read them: a file
that others may read is refused. `cryptography` reads and writes the files and the certificates;
every Ed25519 signature is made by libsodium (`federation.keys`). Private keys are in no message.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation import limits, wire
from federation.dsse import sign_envelope
from federation.errors import FederationError
from federation.keys import SEED_BYTES, Signer, SigningKey, key_id
from federation.names import OrgName
from federation.orgroot import MEDIA_TYPE, OrgRoot, Role, RoleKeys
from node.clock import format_ms
from node.errors import ConfigError
from node.home import Home

CERTIFICATE_DAYS: Final = 3650
"""Days for which a new TLS certificate is valid.

Peers pin the one certificate that the org root names, and nothing can replace it before org roots
have successors: its end would be the end of the organization's name. What it proves is only who
calls; the lists are signed by other keys."""

_BACKDATED: Final = timedelta(minutes=5)
_MAX_KEY_FILE_BYTES: Final = 64 * 1024
_MAX_COMMON_NAME: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKeys:
    """The keys of a new node.

    Attributes:
        root: signs org roots.
        publisher: signs delta headers and list charters.
        log: signs checkpoints.
        certificate: the TLS certificate, PEM.
    """

    root: SigningKey
    publisher: SigningKey
    log: SigningKey
    certificate: str


# --- creating ---------------------------------------------------------------------------------


def create_keys(home: Home, org: OrgName, now_ms: int) -> CreatedKeys:
    """Create all keys of a new node and write them into its key folder, durably.

    Args:
        home: the node's folder; it exists.
        org: the organization, for the TLS certificate.
        now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.

    Raises:
        ConfigError: a file of that name is there, which is never overwritten; others may enter
            the key folder; or a file cannot be written.
    """
    files = (home.root_key, home.publisher_key, home.log_key, home.tls_key, home.tls_certificate)
    with _file_errors(home.keys):
        _make_private_folder(home.keys)
        for path in files:
            if os.path.lexists(path):
                raise _exists(path)
        seeds = [secrets.token_bytes(SEED_BYTES) for _ in range(3)]
        tls_key, certificate = build_certificate(org, now_ms)
        contents = [*map(_seed_pem, seeds), tls_key, certificate]
        for path, content in zip(files, contents, strict=True):
            _write_new(path, content)
        _sync_folder(home.keys)
    root, publisher, log = map(SigningKey.from_seed, seeds)
    return CreatedKeys(root=root, publisher=publisher, log=log, certificate=certificate)


def build_certificate(org: OrgName, now_ms: int) -> tuple[str, str]:
    """Build a new TLS key and its self-signed certificate; return both as PEM, key first.

    Args:
        org: the organization, which is what clients expect as the name.
        now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.
    """
    # Not Ed25519: gRPC's TLS library offers no signature algorithm for such certificates.
    private_key = ec.generate_private_key(ec.SECP256R1())
    # X.509 ends a common name at 64 characters. Readers go by the alternative name; this one only
    # has to differ between organizations, as chains are looked up by it.
    common_name = org if len(org) <= _MAX_COMMON_NAME else sha256(org.encode()).hexdigest()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    not_before = datetime.fromtimestamp(now_ms // 1000, UTC) - _BACKDATED
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(org)]), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    key_pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key_pem.decode(), certificate.public_bytes(Encoding.PEM).decode()


def _key_usage() -> x509.KeyUsage:
    # Without this extension, gRPC takes a pinned certificate for an authority: its owner could
    # issue itself a certificate in the name of another peer.
    return x509.KeyUsage(
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


def create_org_root(
    org: OrgName,
    *,
    root: Signer,
    publisher: Signer,
    log: Signer,
    certificate_sha256: bytes,
    now_ms: int,
) -> bytes:
    """Create the first org root of an organization: one key in each role, one certificate.

    Args:
        org: the organization.
        root: signs this document and the next ones.
        publisher: its public half is named; it signs nothing here.
        log: its public half is named; it signs nothing here.
        certificate_sha256: the digest of the TLS certificate.
        now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.

    Returns:
        The serialized envelope, as peers will read it.

    Raises:
        ConfigError: peers would refuse the document, such as for one key in two roles.
    """
    signers = {Role.ROOT: root, Role.PUBLISHER: publisher, Role.LOG: log}
    document = OrgRoot(
        org=org,
        version=1,
        created_ms=now_ms,
        roles={
            role: RoleKeys(public_keys=(signer.public_key,), threshold=1)
            for role, signer in signers.items()
        },
        tls_certificates=(certificate_sha256,),
    )
    try:
        envelope = sign_envelope(MEDIA_TYPE, wire.encode_org_root(document), [root])
        data = wire.encode_envelope(envelope)
        # What peers are going to do with it.
        opened = wire.open_org_root(data)
    except FederationError as error:
        raise ConfigError(f"org root of {org}: {error}") from error
    if opened.document != document:
        raise ConfigError(f"org root of {org}: reads back as another document")
    return data


# --- loading ----------------------------------------------------------------------------------


def load_signer(path: Path) -> SigningKey:
    """Load an Ed25519 private key.

    Raises:
        ConfigError: the file is missing, others may read it, or it is no unencrypted Ed25519 key.
    """
    data = _read_private(path)
    try:
        private_key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise ConfigError(
            f"{path}: the private key is encrypted with a passphrase",
            hint=f"decrypt it: openssl pkey -in {shlex.quote(str(path))} -out NEW_FILE",
        ) from error
    except (ValueError, UnsupportedAlgorithm):
        # What the parser says could repeat bytes of the file.
        raise ConfigError(
            f"{path} is no private key in PEM form (PKCS#8)",
            hint="restore the file from the backup of your keys",
        ) from None
    if not isinstance(private_key, ed25519.Ed25519PrivateKey):
        got = type(private_key).__name__.removesuffix("PrivateKey").strip("_")
        raise ConfigError(
            f"{path}: got a private key of kind {got}, expected Ed25519",
            hint="restore the file from the backup of your keys",
        )
    return SigningKey.from_seed(private_key.private_bytes_raw())


def require_role(signer: Signer, role: Role, root: OrgRoot) -> None:
    """Check that a key is one that an organization has named for a role.

    Raises:
        ConfigError: the org root in force names other keys: whatever this one signs is refused.
    """
    if signer.public_key not in root.roles[role].public_keys:
        name = role.name.lower()
        raise ConfigError(
            f"the {name} key {key_id(signer.public_key).hex()[:16]} is none of {root.org}: "
            f"its org root names {', '.join(i.hex()[:16] for i in root.roles[role].by_id)}",
            hint=f"put this node's own key back as keys/{name}.key",
        )


def load_tls_key(path: Path) -> str:
    """Load the private key of the TLS certificate, as PEM.

    Raises:
        ConfigError: the file is missing, others may read it, or it is no unencrypted P-256 key.
    """
    data = _read_private(path)
    try:
        private_key = load_pem_private_key(data, password=None)
        text = data.decode("ascii")
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} is no unencrypted private key in PEM form (PKCS#8)") from None
    if not _is_p256(private_key):
        raise ConfigError(f"{path}: expected a private key on the curve P-256")
    return text


def load_certificate(path: Path) -> str:
    """Load a TLS certificate, as PEM.

    Raises:
        ConfigError: the file is missing, or it is no certificate.
    """
    try:
        text = path.read_bytes()[: _MAX_KEY_FILE_BYTES + 1].decode("ascii")
        _parse_certificate(text)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{path} is no TLS certificate in PEM form") from error
    return text


def _read_private(path: Path) -> bytes:
    # A FIFO would make the open wait for a writer.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        # Of the file that is open, not of one that has the name by now.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is no regular file")
        if status.st_mode & 0o077:
            raise ConfigError(
                f"{path}: others may use this private key: "
                f"got permissions {stat.S_IMODE(status.st_mode):04o}, expected 0600",
                hint=f"run: chmod 600 {shlex.quote(str(path))}",
            )
        data = os.pread(descriptor, _MAX_KEY_FILE_BYTES + 1, 0)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_KEY_FILE_BYTES:
        raise ConfigError(f"{path} is too large for a private key")
    return data


# --- certificates -----------------------------------------------------------------------------


def certificate_sha256(pem: str) -> bytes:
    """Return the SHA-256 of the DER form of a certificate: what org roots list.

    Raises:
        ConfigError: it is no certificate.
    """
    return sha256(_parse_certificate(pem).public_bytes(Encoding.DER)).digest()


def certificate_not_after(pem: str) -> int:
    """Return when a certificate expires, in milliseconds since 1970-01-01T00:00:00Z.

    Raises:
        ConfigError: it is no certificate.
    """
    return _milliseconds(_parse_certificate(pem).not_valid_after_utc)


def verify_certificate(pem: str, org: OrgName, now_ms: int) -> None:
    """Check that a certificate is one that a peer of that name can be called with.

    Says nothing about whose it is: that its digest stands in the org root does.

    Args:
        pem: the certificate.
        org: the organization that must be its alternative name.
        now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.

    Raises:
        ConfigError: it is not exactly one certificate of a P-256 key for that name, is not valid
            now, or could issue other certificates.
    """
    certificate = _parse_certificate(pem)
    if certificate.public_bytes(Encoding.PEM).decode() != pem:
        raise ConfigError(
            "the certificate is not exactly one block of PEM, with nothing before or after it"
        )
    try:
        is_p256 = _is_p256(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError("the certificate has a key that cannot be read") from error
    if not is_p256:
        raise ConfigError("the certificate has a key of another kind than ECDSA on P-256")
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise ConfigError("the certificate is not signed by its own key") from error
    _check_extensions(certificate, org)
    if now_ms > _milliseconds(certificate.not_valid_after_utc):
        raise ConfigError(
            "the certificate expired at "
            f"{format_ms(_milliseconds(certificate.not_valid_after_utc))}"
        )
    if now_ms + limits.MAX_CLOCK_SKEW_MS < _milliseconds(certificate.not_valid_before_utc):
        raise ConfigError(
            "the certificate is not valid before "
            f"{format_ms(_milliseconds(certificate.not_valid_before_utc))}"
        )


def _check_extensions(certificate: x509.Certificate, org: OrgName) -> None:
    try:
        extensions = certificate.extensions
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise ConfigError(f"the certificate is no node's: {error}".rstrip(".")) from error
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ConfigError("the certificate has extensions that cannot be read") from error
    # As a pinned root, it would otherwise vouch for certificates in the names of others.
    if constraints.ca or usage != _key_usage():
        raise ConfigError(
            "the certificate may be used for more than TLS of one node, such as to issue others"
        )
    if names != x509.SubjectAlternativeName([x509.DNSName(org)]):
        raise ConfigError(f"the certificate is not for the name {org} alone")


def _parse_certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ConfigError("no certificate in PEM form that can be read") from error


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1
    )


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


# --- files ------------------------------------------------------------------------------------


def _seed_pem(seed: bytes) -> str:
    private_key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _make_private_folder(path: Path) -> None:
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        _sync_folder(path.parent)
    mode = path.stat().st_mode
    if not stat.S_ISDIR(mode):
        raise ConfigError(f"{path} is no folder", hint="move it away")
    if mode & 0o077:
        raise ConfigError(
            f"{path}: others may enter the folder of the private keys: "
            f"got permissions {stat.S_IMODE(mode):04o}, expected 0700",
            hint=f"run: chmod 700 {shlex.quote(str(path))}",
        )


def _write_new(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, and that replaces none."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(descriptor)
        # Unlike a rename, a link fails when the name is taken.
        os.link(new, path)
    finally:
        new.unlink()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _file_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise _exists(Path(error.filename2 or error.filename or folder)) from error
    except OSError as error:
        raise ConfigError(f"{folder}: keys cannot be written: {error.strerror}") from error


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} exists already, and keys are never overwritten",
        hint="use the node that is there, or move its whole key folder to a safe place",
    )


def _unreadable(path: Path, error: OSError) -> ConfigError:
    if isinstance(error, FileNotFoundError):
        return ConfigError(
            f"{path} does not exist",
            hint="create the node with 'hashfed init', or restore the file from your backup",
        )
    return ConfigError(f"{path} cannot be read: {error.strerror}")
