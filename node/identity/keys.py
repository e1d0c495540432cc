"""The keys with which the node signs: their files, and whether the org root names them.

Key files are PKCS#8 PEM without a passphrase. Only their permissions protect them, so a file that
others may read is refused. No message contains a private key.
"""

from __future__ import annotations

import os
import shlex
import stat
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Final

from federation.keys import SEED_BYTES, Signer, SigningKey, key_id
from federation.trust.orgroot import OrgRoot, Role
from node.errors import ConfigError

MAX_KEY_FILE_BYTES: Final = 64 * 1024
"""The largest size in bytes of a key file or certificate."""

# RFC 8410: everything in the file of an Ed25519 key before its 32 secret bytes.
_PREFIX: Final = bytes.fromhex("302e020100300506032b657004220420")
# How such files name their algorithm, near the start.
_OTHER_KINDS: Final = {
    "EC": bytes.fromhex("06072a8648ce3d0201"),
    "RSA": bytes.fromhex("06092a864886f70d010101"),
}
_BEGIN: Final = b"-----BEGIN PRIVATE KEY-----"
_END: Final = b"-----END PRIVATE KEY-----"
_ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_RESTORE: Final = "restore the file from the backup of your keys"


def format_key(seed: bytes) -> str:
    """Format an Ed25519 private key as the text of its file."""
    return b"\n".join((_BEGIN, b64encode(_PREFIX + seed), _END, b"")).decode()


def load_signer(path: Path) -> SigningKey:
    """Load an Ed25519 private key.

    Raises:
        ConfigError: the file is missing, others may read it, or it is not an unencrypted Ed25519
            key.
    """
    data = read_private(path).strip()
    if data.startswith(_ENCRYPTED) or b"Proc-Type: 4,ENCRYPTED" in data:
        raise ConfigError(
            f"{path}: the private key is encrypted with a passphrase",
            hint=f"decrypt it: openssl pkey -in {shlex.quote(str(path))} -out NEW_FILE",
        )
    document = _read_pem(data)
    if document is None:
        # Say no more than that: a message must not repeat bytes of the file.
        raise ConfigError(f"{path} is not a private key in PEM form (PKCS#8)", hint=_RESTORE)
    seed = document.removeprefix(_PREFIX)
    if len(seed) != SEED_BYTES or seed == document:
        kinds = [f"kind {name}" for name, oid in _OTHER_KINDS.items() if oid in document[:32]]
        got = kinds[0] if kinds else "another kind"
        raise ConfigError(f"{path}: got a private key of {got}, expected Ed25519", hint=_RESTORE)
    return SigningKey.from_seed(seed)


def _read_pem(data: bytes) -> bytes | None:
    lines = data.splitlines()
    if len(lines) < 3 or (lines[0], lines[-1]) != (_BEGIN, _END):
        return None
    try:
        return b64decode(b"".join(lines[1:-1]), validate=True)
    except ValueError:
        return None


def require_role(signer: Signer, role: Role, root: OrgRoot) -> None:
    """Check that an organization has named a key for a role.

    Raises:
        ConfigError: the org root in force names other keys: peers refuse what this one signs.
    """
    if signer.public_key not in root.roles[role].public_keys:
        name = role.name.lower()
        raise ConfigError(
            f"the {name} key {key_id(signer.public_key).hex()[:16]} is not one of {root.org}: "
            f"its org root names {', '.join(i.hex()[:16] for i in root.roles[role].by_id)}",
            hint=f"restore this node's own keys/{name}.key from your backup",
        )


def read_private(path: Path) -> bytes:
    """Read a file that holds a private key.

    Raises:
        ConfigError: the file is missing, not a regular file or too large, or others may read it.
    """
    # A FIFO would make the open wait for a writer.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        # The status of the open file: another one may have the name by now.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is not a regular file")
        if status.st_mode & 0o077:
            raise ConfigError(
                f"{path}: others may use this private key: "
                f"got permissions {stat.S_IMODE(status.st_mode):04o}, expected 0600",
                hint=f"run: chmod 600 {shlex.quote(str(path))}",
            )
        data = os.pread(descriptor, MAX_KEY_FILE_BYTES + 1, 0)
    finally:
        os.close(descriptor)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise ConfigError(f"{path} is too large for a private key")
    return data


def unreadable(path: Path, error: OSError) -> ConfigError:
    """Return the error for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return ConfigError(
            f"{path} does not exist",
            hint="create the node with 'hashfed init', or restore the file from your backup",
        )
    return ConfigError(f"{path} cannot be read: {error.strerror}")
