"""The TLS certificate of a node and its key: made, read, checked. Everything X.509 is here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation import limits
from federation.names import OrgName
from node.clock import format_ms
from node.errors import ConfigError
from node.identity.keys import MAX_KEY_FILE_BYTES, read_private, unreadable

CERTIFICATE_DAYS: Final = 3650
"""Days for which a new TLS certificate is valid.

Peers pin the one certificate that the org root names, and nothing can replace it before org roots
have successors. If it expired, the organization would lose its name. It only proves who calls; the
lists are signed by other keys."""

_BACKDATED: Final = timedelta(minutes=5)
_MAX_COMMON_NAME: Final = 64
_RESTORE: Final = "restore keys/tls.key and keys/tls.crt from the backup of your keys"


def build_certificate(org: OrgName, now_ms: int) -> tuple[str, str]:
    """Build a new TLS key and its self-signed certificate; return both as PEM, key first.

    Args:
        org: the organization, which clients expect as the name.
        now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.
    """
    # Not Ed25519: gRPC's TLS library offers no signature algorithm for such certificates.
    private_key = ec.generate_private_key(ec.SECP256R1())
    # X.509 limits a common name to 64 characters. Readers use the alternative name; the common
    # name only has to differ between organizations, because chains are looked up by it.
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


def load_tls_key(path: Path) -> str:
    """Load the private key of the TLS certificate, as PEM.

    Raises:
        ConfigError: the file is missing, others may read it, or it is not an unencrypted P-256
            key.
    """
    data = read_private(path)
    try:
        private_key = load_pem_private_key(data, password=None)
        text = data.decode("ascii")
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{path} is not an unencrypted private key in PEM form (PKCS#8)", hint=_RESTORE
        ) from None
    if not _is_p256(private_key):
        raise ConfigError(f"{path}: expected a private key on the curve P-256")
    return text


def load_certificate(path: Path) -> str:
    """Load a TLS certificate, as PEM.

    Raises:
        ConfigError: the file is missing, or it is not a certificate.
    """
    try:
        text = path.read_bytes()[: MAX_KEY_FILE_BYTES + 1].decode("ascii")
        _parse_certificate(text)
    except OSError as error:
        raise unreadable(path, error) from error
    except (UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{path} is not a TLS certificate in PEM form", hint=_RESTORE) from error
    return text


def load_pair(key_path: Path, certificate_path: Path) -> tuple[str, str]:
    """Load the private key and its TLS certificate, as PEM.

    Raises:
        ConfigError: as `load_tls_key` and `load_certificate`, or they do not belong together.
    """
    key, pem = load_tls_key(key_path), load_certificate(certificate_path)
    if (
        load_pem_private_key(key.encode(), None).public_key()
        != _parse_certificate(pem).public_key()
    ):
        raise ConfigError(
            f"{certificate_path} does not belong to the key {key_path}",
            hint=_RESTORE,
        )
    return key, pem


def certificate_sha256(pem: str) -> bytes:
    """Return the SHA-256 of the DER form of a certificate: what org roots list.

    Raises:
        ConfigError: it is not a certificate.
    """
    return sha256(_parse_certificate(pem).public_bytes(Encoding.DER)).digest()


def certificate_not_after(pem: str) -> int:
    """Return when a certificate expires, in milliseconds since 1970-01-01T00:00:00Z.

    Raises:
        ConfigError: it is not a certificate.
    """
    return _milliseconds(_parse_certificate(pem).not_valid_after_utc)


def verify_certificate(pem: str, org: OrgName, now_ms: int) -> None:
    """Check that a peer of that name can be called with a certificate.

    This does not prove whose it is. Its digest in the org root proves that.

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
        raise ConfigError("the certificate's key cannot be read") from error
    if not is_p256:
        raise ConfigError("the certificate's key is not an ECDSA key on P-256")
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
        raise ConfigError(f"the certificate is not that of a node: {error}".rstrip(".")) from error
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ConfigError("the certificate has extensions that cannot be read") from error
    # As a pinned root, it would otherwise vouch for certificates in the names of others.
    if constraints.ca or usage != _key_usage():
        raise ConfigError(
            "the certificate may do more than identify one node, such as issue other certificates"
        )
    if names != x509.SubjectAlternativeName([x509.DNSName(org)]):
        raise ConfigError(f"the certificate is not for the name {org} alone")


def _parse_certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ConfigError("there is no readable certificate in PEM form") from error


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1
    )


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
