"""Changes as JSON Lines: one operation, one line. The text form that loses nothing.

    {"op":"assert","id":"…","fingerprints":{"md5":"…","sha256":["…","…"]},"labels":["…"],
     "reason":"…","vocabulary":"…"}
    {"op":"retract","id":"…","cause":"withdrawn","reason":"…"}
    {"op":"purge","id":"…"}

Reading is strict, but accepts keys in any order and lines without `id`, `labels`, `reason` or
`vocabulary`. Writing has one form for each operation, so that the exports of two nodes can be
compared byte for byte. Knows nothing of files, nor which entries exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from federation.body import PackedOp, pack
from federation.entry import CAUSES, Annotation, Cause, EntryId, Operation
from federation.errors import MalformedError, OperationError
from federation.fingerprint import Fingerprint
from node.formats.layout import WIDTHS, Layout, Slot


class Format(StrEnum):
    """The text forms of a list."""

    JSONL = "jsonl"
    """One operation a line (this module)."""
    CSV = "csv"
    """One fingerprint and label a line (`node.formats.csvfile`)."""


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
        OperationError: `op` is missing or unknown; the operation has no such key; a value has
            another type than its key; or an entry, a cause or a label is not valid.
        FingerprintError: a hash that no list may carry, or a text that is not a hash of its type.
        LimitError: there are too many fingerprints or labels, or a text is too long.
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
        raise MalformedError("not a change: it is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise MalformedError("not a change: a number in it is too long") from error
    if not isinstance(value, dict):
        raise OperationError(f"got {_json_name(value)}, expected an object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise MalformedError(f"the key {_show(key)} is there twice in one object")
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


# --- reading many -----------------------------------------------------------------------------

_VALUE: Final = rb'"([a-z0-9-]+)": ?"([0-9a-zA-Z+/]+)"'
_ASSERTION: Final = re.compile(
    rb'\{"op": ?"assert", ?(?:"id": ?"([ !#-\[\]-~]+)", ?)?'
    rb'"fingerprints": ?\{(' + _VALUE + rb"(?:, ?" + _VALUE + rb")*)\}"
)
_WITHDRAWAL: Final = re.compile(rb'\{"op": ?"(?:retract|purge)", ?"id": ?"([ !#-\[\]-~]+)"')
_VALUES: Final = re.compile(_VALUE)


class ChangeReader:
    """Reads many lines."""

    @staticmethod
    def parse(line: bytes) -> PackedOp:
        """Parse one line into its packed form.

        Raises:
            MalformedError, OperationError, FingerprintError, LimitError: as `parse_change`.
        """
        return pack(parse_change(line))

    @staticmethod
    def find_layout(line: bytes) -> Layout | None:
        """Say where the hashes are in a line that `parse` accepts; None if the line is unusual."""
        found = _ASSERTION.match(line)
        values = [] if found is None else list(_VALUES.finditer(line, *found.span(2)))
        slots = [Slot(*value.span(2), value[1]) for value in values]
        if found is None:
            found = _WITHDRAWAL.match(line)
        if found is None:
            return None
        end = slots[-1].stop if slots else found.end(1)
        if found[1] is not None:
            slots.insert(0, _id_slot(found))
        elif b'"id"' in line[end:] or b"\\" in line[end:]:
            # An id may also follow the fingerprints, or its key may contain an escape.
            return None
        return Layout(tuple(slots), end)


def _id_slot(found: re.Match[bytes]) -> Slot:
    """Return the slot of the id that was found, or of its digest if it names a fingerprint."""
    start, stop = found.span(1)
    head, colon, _ = found[1].partition(b":")
    return (
        Slot(start + len(head) + 1, stop, head)
        if colon and head in WIDTHS
        else Slot(start, stop, b"")
    )


# --- writing ----------------------------------------------------------------------------------


def format_change(operation: Operation) -> str:
    """Format an operation as its one line, without a line end.

    Keys are in a fixed order. `id` is always there, an empty value never. Fingerprints are sorted
    by the name of their type: one of a type is a text, several are a sorted list.
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
