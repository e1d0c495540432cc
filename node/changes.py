"""Changes as JSON Lines: one operation, one line. The text form that loses nothing.

    {"op":"assert","id":"…","fingerprints":{"md5":"…","sha256":["…","…"]},"labels":["…"],
     "reason":"…","vocabulary":"…"}
    {"op":"retract","id":"…","cause":"withdrawn","reason":"…"}
    {"op":"purge","id":"…"}

Reading is strict, but takes keys in any order and leaves `id`, `labels`, `reason` and `vocabulary`
to be omitted. Writing has one form for each operation, so that what two nodes export can be
compared byte for byte. Knows nothing of files and of which entries exist.
"""

from __future__ import annotations

import json
import re
from binascii import Error as HexError
from binascii import unhexlify
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from hashlib import new as new_hash
from types import MappingProxyType
from typing import Final

from federation.body import PackedOp, Shape, pack
from federation.entry import CAUSES, Annotation, Cause, EntryId, Operation, OpKind
from federation.errors import MalformedError, OperationError
from federation.fingerprint import Fingerprint, check_digest
from federation.hashtypes import HASH_TYPES, Kind, TextForm


class Format(StrEnum):
    """The text forms of a list."""

    JSONL = "jsonl"
    """One operation a line (this module)."""
    CSV = "csv"
    """One fingerprint and label a line (`node.csvfile`)."""


_KEYS: Final = MappingProxyType(
    {
        "assert": ("op", "id", "fingerprints", "labels", "reason", "vocabulary"),
        "retract": ("op", "id", "cause", "reason"),
        "purge": ("op", "id"),
    }
)
_JSON_NAMES: Final = MappingProxyType(
    {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
)


# --- reading ----------------------------------------------------------------------------------


def parse_change(line: bytes | str) -> Operation:
    """Parse one line.

    Raises:
        MalformedError: it is not UTF-8, not JSON, or has a key twice.
        OperationError: `op` is missing or unknown; a key that this operation does not have; a value
            of another type than its key's; an entry, a cause or a label that cannot be.
        FingerprintError: a hash that no list may carry, or a text that is no hash of its type.
        LimitError: too many fingerprints or labels, or a text too long.
    """
    fields = _parse_object(line)
    op = fields.get("op")
    if op is None:
        raise OperationError(f"'op' is missing; expected one of {', '.join(_KEYS)}")
    if not isinstance(op, str) or op not in _KEYS:
        raise OperationError(f"unknown op {_show(op)}{suggest(op, _KEYS)}")
    for key in fields:
        if key not in _KEYS[op]:
            raise OperationError(f"unknown key {_show(key)} in {op!r}{suggest(key, _KEYS[op])}")
    if op == "assert":
        return _parse_assert(fields)
    entry = EntryId.parse(_text(fields, "id", required=True))
    if op == "purge":
        return Operation.purge(entry)
    word = _text(fields, "cause", required=True)
    if word not in CAUSES:
        raise OperationError(f"unknown cause {_show(word)}{suggest(word, CAUSES)}")
    return Operation.retraction(entry, CAUSES[word], _text(fields, "reason"))


def _parse_object(line: bytes | str) -> dict[str, object]:
    try:
        text = line.decode() if isinstance(line, bytes) else line
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8 at byte {error.start + 1}") from error
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise MalformedError(f"not JSON at character {error.pos + 1}: {error.msg}") from error
    except RecursionError as error:
        raise MalformedError("not a change: nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise MalformedError("not a change: a number too long") from error
    if not isinstance(value, dict):
        raise OperationError(f"got {_json_name(value)}, expected an object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise MalformedError(f"the key {_show(key)} stands twice in one object")
            seen.add(key)
    return found


def _parse_assert(fields: Mapping[str, object]) -> Operation:
    by_type = fields.get("fingerprints")
    if by_type is None:
        raise OperationError("'fingerprints' is missing")
    if not isinstance(by_type, dict):
        raise OperationError(
            f"'fingerprints': got {_json_name(by_type)}, expected an object of type and value"
        )
    fingerprints = []
    for type_name, values in by_type.items():
        for value in values if isinstance(values, list) else (values,):
            if not isinstance(value, str):
                raise OperationError(
                    f"'fingerprints': a value of {_show(type_name)} is {_json_name(value)}, "
                    "expected a text or a list of texts"
                )
            fingerprints.append(Fingerprint.parse(type_name, value))
    labels = fields.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        got = "a list of other things" if isinstance(labels, list) else _json_name(labels)
        raise OperationError(f"'labels': got {got}, expected a list of texts")
    annotation = Annotation(
        labels=tuple(sorted(set(labels))),
        reason=_text(fields, "reason"),
        vocabulary=_text(fields, "vocabulary"),
    )
    entry = EntryId.parse(_text(fields, "id")) if "id" in fields else None
    return Operation.assertion(tuple(fingerprints), annotation, entry)


def _text(fields: Mapping[str, object], key: str, *, required: bool = False) -> str:
    value = fields.get(key)
    if isinstance(value, str):
        return value
    if key in fields:
        raise OperationError(f"{key!r}: got {_json_name(value)}, expected a text")
    if required:
        raise OperationError(f"{key!r} is missing")
    return ""


def _json_name(value: object) -> str:
    return _JSON_NAMES.get(type(value), "something else")


def _show(value: object) -> str:
    """Show a value from elsewhere in a message: short, and in ASCII."""
    text = ascii(value) if isinstance(value, str) else _json_name(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def suggest(word: object, known: Iterable[str]) -> str:
    """Return what to add to the message about an unknown word: the nearest known one, or all."""
    names = list(known)
    near = get_close_matches(word.lower(), names, n=1) if isinstance(word, str) else []
    return f"; did you mean {near[0]!r}" if near else f"; expected one of {', '.join(names)}"


# --- reading fast -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plain:
    """A hash type whose canonical text is hex of one length: nearly all rows of nearly all lists.

    Attributes:
        name: the type.
        hex_length: characters of its hex form.
        shape: the shape of an assertion of one fingerprint of this type and nothing else.
        suspects: the digests that `check_digest` may refuse; None where only it can tell.
    """

    name: str
    hex_length: int
    shape: Shape
    suspects: frozenset[bytes] | None

    def parse(self, text: bytes) -> bytes | None:
        """Return the digest of a text, or None unless it is plainly a hash that a list may carry.

        What None stands for, a full parse has to say. Never accepts what a full parse refuses.
        """
        if len(text) != self.hex_length:
            return None
        try:
            digest = unhexlify(text)
        except HexError:
            return None
        if self.suspects is None:
            check_digest(self.name, digest)
        elif digest in self.suspects:
            return None
        return digest


def _plain_types() -> Mapping[bytes, Plain]:
    found = {}
    for hash_type in HASH_TYPES.values():
        if hash_type.canonical_form is not TextForm.HEX or hash_type.widths is None:
            continue
        (width,) = hash_type.widths
        suspects = None
        if hash_type.kind is Kind.EXACT:
            empty = new_hash(hash_type.name, usedforsecurity=False).digest()
            suspects = frozenset((bytes(width), b"\xff" * width, empty))
        found[hash_type.name.encode()] = Plain(
            hash_type.name,
            2 * width,
            Shape(OpKind.ASSERT, True, 0, ((hash_type.name, width),)),  # noqa: FBT003  # named
            suspects,
        )
    return MappingProxyType(found)


PLAIN_TYPES: Final = _plain_types()
"""The plain types by their names in bytes."""

MAX_CACHED_ANNOTATIONS: Final = 4096
"""Annotations that a reader remembers: lists have few distinct ones, or as many as rows."""

_MAX_CACHED_SHAPES: Final = 4096
"""Shapes that a reader remembers: ids come in up to 255 widths, sets of types in a handful."""

# An id of printable ASCII without escapes; values in hex. Anything else is not common.
_VALUE: Final = rb'"([a-z0-9]+)": ?"([0-9a-fA-F]+)"'
_COMMON_LINE: Final = re.compile(
    rb'\{"op": ?"assert", ?(?:"id": ?"([!#-\[\]-~]+)", ?)?'
    rb'"fingerprints": ?\{(' + _VALUE + rb'(?:, ?"[a-z0-9]+": ?"[0-9a-fA-F]+")*)\}(.*)',
    re.DOTALL,
)
_VALUES: Final = re.compile(_VALUE)
_MAX_PUNCTUATION: Final = len('"": ""')


class ChangeReader:
    """Reads many lines, common ones fast. Decides as `parse_change` does.

    What can be said once for many lines is parsed once, by `parse_change`: the annotation, for all
    lines that end in the same bytes behind their fingerprints; the shape, for all that have the
    same types and the same kind of id.
    """

    def __init__(self) -> None:
        # By whether the line has an id, since a second one would be a repeated key.
        self._ends: tuple[dict[bytes, Annotation], dict[bytes, Annotation]] = ({}, {})
        self._shapes: dict[tuple[object, ...], tuple[Shape, tuple[int, ...]]] = {}

    def parse(self, line: bytes) -> PackedOp:
        """Parse one line into its packed form.

        Raises:
            MalformedError, OperationError, FingerprintError, LimitError: as `parse_change`.
        """
        common = _COMMON_LINE.fullmatch(line)
        if common is None:
            return pack(parse_change(line))
        name, fingerprints, type_name, value, end = common.groups()
        annotation = self._ends[name is not None].get(end)
        if annotation is None:
            return self._learn_end(line, end, has_id=name is not None)
        several = len(fingerprints) > len(type_name) + len(value) + _MAX_PUNCTUATION
        if several or (name is not None and name != type_name + b":" + value):
            return self._parse_record(line, name, fingerprints, annotation)
        plain = PLAIN_TYPES.get(type_name)
        digest = None if plain is None else plain.parse(value)
        if plain is None or digest is None:
            return pack(parse_change(line))
        return PackedOp(plain.shape, digest, annotation)

    def _learn_end(self, line: bytes, end: bytes, *, has_id: bool) -> PackedOp:
        packed = pack(parse_change(line))
        # An id may also stand behind the fingerprints, or its key be written with an escape.
        if not has_id and (b'"id"' in end or b"\\" in end):
            return packed
        ends = self._ends[has_id]
        if len(ends) >= MAX_CACHED_ANNOTATIONS:
            ends.clear()
        ends[end] = packed.annotation
        return packed

    def _parse_record(
        self, line: bytes, name: bytes | None, fingerprints: bytes, annotation: Annotation
    ) -> PackedOp:
        """Parse a common line with several fingerprints, or with an id of its own."""
        values = _VALUES.findall(fingerprints)
        types = tuple(type_name for type_name, _ in values)
        digests = []
        for type_name, value in values:
            plain = PLAIN_TYPES.get(type_name)
            digest = None if plain is None else plain.parse(value)
            if digest is None:
                return pack(parse_change(line))
            digests.append(digest)
        own = b""
        kind_of_id: object = None
        if name is not None:
            # The id may be one of the fingerprints, in the very same text.
            head, colon, rest = name.partition(b":")
            if colon and (head, rest) in values:
                kind_of_id = head
            elif colon and head.decode().lower() in HASH_TYPES:
                return pack(parse_change(line))
            else:
                own, kind_of_id = name, len(name)
        known = self._shapes.get((kind_of_id, types))
        if known is None:
            return self._learn_shape(line, kind_of_id, types)
        shape, order = known
        return PackedOp(shape, own + b"".join([digests[at] for at in order]), annotation)

    def _learn_shape(self, line: bytes, kind_of_id: object, types: tuple[bytes, ...]) -> PackedOp:
        # A type that stands twice is refused here as a repeated key, so that it is never learnt.
        packed = pack(parse_change(line))
        order = tuple(types.index(column.encode()) for column, _ in packed.shape.columns)
        if len(self._shapes) >= _MAX_CACHED_SHAPES:
            self._shapes.clear()
        self._shapes[kind_of_id, types] = (packed.shape, order)
        return packed


# --- writing ----------------------------------------------------------------------------------


def format_change(operation: Operation) -> str:
    """Format an operation as its one line, without a line end.

    Keys stand in a fixed order, `id` always, what is empty never; fingerprints by name of type,
    one as a text, several of a type as a sorted list.
    """
    annotation = operation.annotation
    fields: dict[str, object] = {
        "op": operation.kind.name.lower(),
        "id": operation.entry.format(),
    }
    if operation.fingerprints:
        by_type: dict[str, list[str]] = {}
        for fingerprint in operation.fingerprints:
            by_type.setdefault(fingerprint.type, []).append(fingerprint.format_digest())
        fields["fingerprints"] = {
            type_name: values[0] if len(values) == 1 else sorted(values)
            for type_name, values in sorted(by_type.items())
        }
    if annotation.cause is not Cause.NONE:
        fields["cause"] = annotation.cause.word
    if annotation.labels:
        fields["labels"] = list(annotation.labels)
    if annotation.reason:
        fields["reason"] = annotation.reason
    if annotation.vocabulary:
        fields["vocabulary"] = annotation.vocabulary
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
