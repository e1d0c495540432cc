"""C2SP checkpoints (c2sp.org/tlog-checkpoint v1.0.0): origin, size and root of a log, as a note.

A checkpoint describes one log at one moment. Proofs show whether two checkpoints agree, and the
organization's documents say which key belongs to a log.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from federation import limits, merkle
from federation.errors import MalformedError, Reason, SequenceError, SignatureError, UsageError
from federation.note import (
    NoteSigner,
    SignatureType,
    Verifier,
    decode_base64,
    open_note,
    sign_note,
)

# At most 19 digits, so that the number is small before Python reads it.
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL: Final = re.compile(r"[\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of one log. Construction checks every field.

    Attributes:
        origin: the name of the log.
        size: the number of its leaves.
        root_hash: the RFC 6962 root over them.
    """

    origin: str
    size: int
    root_hash: bytes

    def __post_init__(self) -> None:
        _check_origin(self.origin)
        if type(self.size) is not int or not 0 <= self.size <= limits.MAX_TREE_SIZE:
            raise _malformed(f"size out of range: got {self.size!r}")
        if not isinstance(self.root_hash, bytes) or len(self.root_hash) != merkle.HASH_BYTES:
            raise _malformed(f"root hash is not {merkle.HASH_BYTES} bytes")
        if self.size == 0 and self.root_hash != merkle.EMPTY_ROOT:
            raise _malformed(f"size 0 with root {self.root_hash.hex()}, which no empty log has")

    @classmethod
    def parse(cls, text: str | bytes) -> Checkpoint:
        """Parse the text of a checkpoint's note.

        Raises:
            MalformedError: it is not three lines in the one allowed form (reason
                `CHECKPOINT_MALFORMED`).
        """
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError as error:
                raise _malformed("not UTF-8") from error
        if not isinstance(text, str):
            raise _malformed(f"must be text: got {type(text).__name__}")
        # tlog-checkpoint allows further lines. They are refused here, because newer witnesses do
        # not sign them, so nobody would be responsible for them.
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise _malformed("expected exactly three lines, each ending in a newline")
        origin, size, root, _ = lines
        if _SIZE.fullmatch(size) is None:
            raise _malformed(f"size {size[:32]!r} is not a decimal number without leading zero")
        try:
            root_hash = decode_base64(root, "root hash")
        except MalformedError as error:
            raise _malformed(str(error)) from error
        return cls(origin, int(size), root_hash)

    def format(self) -> str:
        """Return the text of the checkpoint's note, which `parse` reads."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root_hash).decode()}\n"


def sign_checkpoint(checkpoint: Checkpoint, note_signer: NoteSigner) -> bytes:
    """Sign a checkpoint with its log's key and return the note.

    Raises:
        UsageError: the signer has another name than the log, or made a signature that does not
            verify.
    """
    if note_signer.name != checkpoint.origin:
        raise UsageError(
            f"a checkpoint is signed under its origin: got signer {note_signer.name!r}, "
            f"expected {checkpoint.origin!r}"
        )
    return sign_note(checkpoint.format(), [note_signer])


def open_checkpoint(data: bytes, origin: str, verifiers: Iterable[Verifier]) -> Checkpoint:
    """Verify the note of a checkpoint and return its content.

    Every line must be by one of the verifiers: a note is kept and passed on as it came, and must
    not hold anything that nobody signed. Witnesses may be among the verifiers. Their cosignatures
    are then checked, but never stand in for the log's own signature.

    Args:
        data: the bytes of the note.
        origin: the log that it must be about.
        verifiers: keys that may have signed it. The log's are those of type 01 named as the log.

    Raises:
        LimitError: the note is too long, or has too many signatures.
        MalformedError: it is not the note of a checkpoint, or has a line of another key (reason
            `CHECKPOINT_MALFORMED`).
        SignatureError: no key of the log signed it, or a signature of a known key is false
            (reason `CHECKPOINT_SIGNATURE_INVALID`).
        SequenceError: it is about another log (reason `ORIGIN_MISMATCH`).
        UsageError: two different verifiers have the same name and key id.
    """
    candidates = tuple(verifiers)
    log_keys = {
        verifier.key_id
        for verifier in candidates
        if verifier.name == origin and verifier.signature_type is SignatureType.ED25519
    }
    try:
        note = open_note(data, candidates)
    except MalformedError as error:
        raise _malformed(str(error)) from error
    except SignatureError as error:
        raise _signature_error(str(error)) from error
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != origin:
        raise SequenceError(
            f"checkpoint of another log: got {checkpoint.origin!r}, expected {origin!r}",
            reason=Reason.ORIGIN_MISMATCH,
        )
    if not any(line.name == origin and line.key_id in log_keys for line in note.signatures):
        raise _signature_error(f"checkpoint is not signed by a key of the log {origin!r}")
    if note.unverified:
        raise _malformed(
            f"{len(note.unverified)} signature lines are of keys that are not the log's"
        )
    return checkpoint


def read_checkpoint(data: bytes) -> Checkpoint:
    """Return the content of a checkpoint's note, which was verified before.

    Args:
        data: the bytes of the note.

    Raises:
        MalformedError: it is not the note of a checkpoint (reason `CHECKPOINT_MALFORMED`).
    """
    text, _, _ = data.rpartition(b"\n\n")
    return Checkpoint.parse(text + b"\n")


def _check_origin(origin: str) -> None:
    if not isinstance(origin, str) or not origin or _CONTROL.search(origin):
        raise _malformed(f"origin must be one line that is not empty: got {origin!r}")
    # Such a text would begin like the message that a witness signs.
    if origin == "cosignature/v1":
        raise _malformed(f"origin {origin!r} is reserved")
    try:
        origin.encode()
    except UnicodeEncodeError as error:
        raise _malformed(f"origin {origin!r} is not valid text") from error


def _malformed(message: str) -> MalformedError:
    return MalformedError(f"checkpoint: {message}", reason=Reason.CHECKPOINT_MALFORMED)


def _signature_error(message: str) -> SignatureError:
    return SignatureError(message, reason=Reason.CHECKPOINT_SIGNATURE_INVALID)
