"""Entries and the operations on them, one at a time; `federation.body` handles many as columns.

An entry is one publisher's statement about one item of material: an id, a *set* of fingerprints of
that item, and an annotation. This module does not know lists, logs and peers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from federation import limits
from federation.errors import LimitError, OperationError
from federation.fingerprint import Fingerprint, strongest
from federation.hashtypes import HASH_TYPES, format_digest

# C0, C1 and DEL break logs and terminals; the bidirectional controls make one text look like
# another (Unicode TR 36); the separators U+2028 and U+2029 break lines.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class OpKind(IntEnum):
    """What an operation does to the entry it names. The numbers are those of the wire."""

    ASSERT = 1
    RETRACT = 2
    PURGE = 3

    @property
    def word(self) -> str:
        """Its name in text."""
        return self._name_.lower()


class Cause(IntEnum):
    """Why an entry was retracted. The numbers are those of the wire."""

    NONE = 0
    WITHDRAWN = 1
    FALSE_POSITIVE = 2
    SUPERSEDED = 3

    @property
    def word(self) -> str:
        """The word that people write: `false-positive` for FALSE_POSITIVE."""
        return self.name.lower().replace("_", "-")


CAUSES: Final = {cause.word: cause for cause in Cause if cause is not Cause.NONE}
"""The causes by the words that people write."""


def check_text(what: str, text: str, max_bytes: int) -> str:
    """Return `text` if it may be carried: bounded UTF-8 without control characters.

    Raises:
        LimitError: it is longer than `max_bytes` in UTF-8.
        OperationError: it has control characters or is not Unicode text.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise OperationError(f"{what} is not Unicode text: a lone surrogate") from error
    if size > max_bytes:
        raise LimitError(f"{what}: got {size} bytes, at most {max_bytes}")
    found = _CONTROL.search(text)
    if found is not None:
        raise OperationError(f"{what} has the control character U+{ord(found[0]):04X}")
    return text


@dataclass(frozen=True, slots=True, order=True)
class EntryId:
    """The name of an entry within its list: one of its fingerprints, or an id of its own.

    Attributes:
        type: the hash type of the naming fingerprint; empty for an id of its own.
        key: the digest, or the id in UTF-8.
    """

    type: str
    key: bytes

    @classmethod
    def parse(cls, text: str) -> EntryId:
        """Parse an id as people write it: `sha256:<hex>` is a fingerprint, anything else is an id.

        Raises:
            FingerprintError: it starts like a fingerprint but is not one.
            OperationError: it is empty, or has control characters, or white space at an end.
            LimitError: it is longer than 255 bytes.
        """
        type_name, colon, _ = text.partition(":")
        if colon and type_name.lower() in HASH_TYPES:
            fingerprint = Fingerprint.parse_tagged(text)
            return cls(fingerprint.type, fingerprint.digest)
        check_text("entry id", text, limits.MAX_ENTRY_ID_BYTES)
        if not text or text != text.strip():
            raise OperationError(f"entry id {text!r} is empty or has white space at an end")
        return cls("", text.encode())

    @classmethod
    def of(cls, fingerprint: Fingerprint) -> EntryId:
        """Name an entry by one of its fingerprints."""
        return cls(fingerprint.type, fingerprint.digest)

    def format(self) -> str:
        """Return the text of this id; `parse` reads it back if its hash type is registered."""
        if not self.type:
            return self.key.decode()
        return f"{self.type}:{format_digest(self.type, self.key)}"

    def __str__(self) -> str:
        return self.format()


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Annotation:
    """The part of an operation besides fingerprints. Labels are the source's own words, verbatim.

    Attributes:
        labels: sorted, distinct.
        reason: a sentence for people, or empty.
        vocabulary: the name of the scheme that the labels come from, or empty.
        cause: the cause of a retraction; NONE for other operations.
    """

    labels: tuple[str, ...] = ()
    reason: str = ""
    vocabulary: str = ""
    cause: Cause = Cause.NONE

    def check(self, kind: OpKind) -> None:
        """Raise an error unless an operation of this kind may carry this annotation.

        Raises:
            OperationError: labels are unsorted, repeated or empty; a text has control characters;
                an assertion has a cause, a retraction has none, or a purge has anything.
            LimitError: there are too many labels, or a text is too long.
        """
        if len(self.labels) > limits.MAX_LABELS:
            raise LimitError(f"labels: got {len(self.labels)}, at most {limits.MAX_LABELS}")
        for label in self.labels:
            check_text("label", label, limits.MAX_LABEL_BYTES)
            if not label:
                raise OperationError("a label is empty")
        if any(a >= b for a, b in zip(self.labels, self.labels[1:], strict=False)):
            raise OperationError("labels are not sorted and distinct")
        check_text("reason", self.reason, limits.MAX_REASON_BYTES)
        check_text("vocabulary", self.vocabulary, limits.MAX_VOCABULARY_BYTES)
        if (self.cause is Cause.NONE) is (kind is OpKind.RETRACT):
            raise OperationError("a retraction has a cause, and nothing else has one")
        if kind is not OpKind.ASSERT and (self.labels or self.vocabulary):
            raise OperationError("only an assertion has labels")
        if kind is OpKind.PURGE and self.reason:
            raise OperationError("a purge has no reason, so that nothing is left behind")

    @classmethod
    def parse(cls, data: bytes) -> Annotation:
        """Parse canonical bytes; `check` must check the content.

        Raises:
            OperationError: these are not the canonical bytes of an annotation.
        """
        try:
            at = 2
            labels = []
            for _ in range(data[1]):
                labels.append(data[at + 1 : at + 1 + data[at]].decode())
                at += 1 + data[at]
            stop = at + 2 + int.from_bytes(data[at : at + 2])
            reason = data[at + 2 : stop].decode()
            vocabulary = data[stop + 1 :].decode()
            annotation = cls(
                labels=tuple(labels), reason=reason, vocabulary=vocabulary, cause=Cause(data[0])
            )
            if annotation.canonical() == data:
                return annotation
        except (IndexError, ValueError, OverflowError) as error:
            raise OperationError("the bytes of an annotation end early or are not text") from error
        raise OperationError("an annotation is not in its canonical form")

    def canonical(self) -> bytes:
        """Return the bytes of this annotation in an op's leaf (docs/spec/delta.md)."""
        labels = [label.encode() for label in self.labels]
        reason, vocabulary = self.reason.encode(), self.vocabulary.encode()
        return b"".join(
            (
                self.cause.to_bytes(),
                len(labels).to_bytes(),
                *(len(label).to_bytes() + label for label in labels),
                len(reason).to_bytes(2) + reason,
                len(vocabulary).to_bytes() + vocabulary,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation on one entry.

    Attributes:
        kind: what it does.
        entry: the entry that it names.
        fingerprints: sorted, distinct; all of the entry's for an assertion, none otherwise.
        annotation: labels and reason, or cause and reason.
    """

    kind: OpKind
    entry: EntryId
    fingerprints: tuple[Fingerprint, ...] = ()
    annotation: Annotation = field(default_factory=Annotation)

    @classmethod
    def assertion(
        cls,
        fingerprints: tuple[Fingerprint, ...],
        annotation: Annotation,
        entry: EntryId | None = None,
    ) -> Operation:
        """Build an assertion; without an id, the strongest fingerprint names the entry.

        Raises:
            OperationError: there is no fingerprint, or the id is a fingerprint of another entry.
            LimitError: there are too many fingerprints.
        """
        distinct = tuple(sorted(set(fingerprints)))
        if not distinct:
            raise OperationError("an assertion needs at least one fingerprint")
        if len(distinct) > limits.MAX_ENTRY_FINGERPRINTS:
            raise LimitError(
                f"fingerprints: got {len(distinct)}, at most {limits.MAX_ENTRY_FINGERPRINTS}"
            )
        if entry is None:
            entry = EntryId.of(strongest(distinct))
        elif entry.type and Fingerprint(entry.type, entry.key) not in distinct:
            raise OperationError(
                f"the id {entry} is a fingerprint, but not one of this entry's own: "
                "give it as a fingerprint too, or choose another id"
            )
        annotation.check(OpKind.ASSERT)
        return cls(kind=OpKind.ASSERT, entry=entry, fingerprints=distinct, annotation=annotation)

    @classmethod
    def retraction(cls, entry: EntryId, cause: Cause, reason: str = "") -> Operation:
        """Build a retraction.

        Raises:
            OperationError: there is no cause, or the reason has control characters.
            LimitError: the reason is too long.
        """
        annotation = Annotation(cause=cause, reason=reason)
        annotation.check(OpKind.RETRACT)
        return cls(kind=OpKind.RETRACT, entry=entry, annotation=annotation)

    @classmethod
    def purge(cls, entry: EntryId) -> Operation:
        """Build a purge."""
        return cls(kind=OpKind.PURGE, entry=entry)
