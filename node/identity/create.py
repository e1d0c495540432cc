"""A new node's keys, as files, and the first org root, which names them."""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from federation import wire
from federation.dsse import sign_envelope
from federation.errors import FederationError
from federation.keys import SEED_BYTES, Signer, SigningKey
from federation.names import OrgName
from federation.trust.orgroot import MEDIA_TYPE, OrgRoot, Role, RoleKeys
from node.errors import ConfigError
from node.home import Home
from node.identity.certificate import build_certificate
from node.identity.keys import format_key
from node.system import durable


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


def create_keys(home: Home, org: OrgName, now_ms: int) -> CreatedKeys:
    """Create all keys of a new node and write them into its key folder, durably.

    Args:
        home: the node's folder; it exists.
        org: the organization, for the TLS certificate.
        now_ms: the time, in milliseconds since 1970-01-01T00:00:00Z.

    Raises:
        ConfigError: a file of that name exists, and is never overwritten; others may enter the key
            folder; or a file cannot be written.
    """
    files = (home.root_key, home.publisher_key, home.log_key, home.tls_key, home.tls_certificate)
    with _file_errors(home.keys):
        _make_private_folder(home.keys)
        for path in files:
            if os.path.lexists(path):
                raise _exists(path)
        seeds = [secrets.token_bytes(SEED_BYTES) for _ in range(3)]
        tls_key, certificate = build_certificate(org, now_ms)
        contents = [*map(format_key, seeds), tls_key, certificate]
        for path, content in zip(files, contents, strict=True):
            _write_new(path, content)
        durable.sync(home.keys)
    root, publisher, log = map(SigningKey.from_seed, seeds)
    return CreatedKeys(root=root, publisher=publisher, log=log, certificate=certificate)


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
        ConfigError: peers would refuse the document, for example one with one key in two roles.
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
        # Peers are going to do the same with it.
        opened = wire.open_org_root(data)
    except FederationError as error:
        raise ConfigError(f"org root of {org}: {error}") from error
    if opened.document != document:
        raise ConfigError(f"org root of {org}: it reads back as a different document")
    return data


# --- files ------------------------------------------------------------------------------------


def _make_private_folder(path: Path) -> None:
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        durable.sync(path.parent)
    mode = path.stat().st_mode
    if not stat.S_ISDIR(mode):
        raise ConfigError(f"{path} is not a folder", hint="move it away")
    if mode & 0o077:
        raise ConfigError(
            f"{path}: others may enter the folder of the private keys: "
            f"got permissions {stat.S_IMODE(mode):04o}, expected 0700",
            hint=f"run: chmod 700 {shlex.quote(str(path))}",
        )


def _write_new(path: Path, text: str) -> None:
    """Write a file completely or not at all; never replace one."""
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
        hint="use the node that exists, or move its whole key folder to a safe place",
    )
