"""Points in a list's history as people write them: a position, a version of the store, a time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from node.errors import CommandError
from node.query.diff import covering_span
from node.store import damage, lists, log
from node.store.connection import Store
from node.store.index import NOW, Cuts
from node.store.lists import ListRecord

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


_AS_OF_FORMS: Final = "position:N, version:N or time:2026-01-31T12:00:00Z"


def resolve_as_of(store: Store, record: ListRecord, text: str) -> int:
    """Return how many deltas of a list were here as of a position, a store version or a time.

    Args:
        store: where the list is.
        record: the list.
        text: `position:N`, the first N deltas; `version:N`, what this store had committed with its
            version N; or `time:T`, a time in RFC 3339, with `Z` or an offset.

    Raises:
        CommandError: the text has another form, or the position or version is not reached yet.
    """
    kind, colon, value = text.partition(":")
    if not colon or kind not in ("position", "version", "time"):
        raise CommandError(f"got {text!r}, expected {_AS_OF_FORMS}")
    connection = store.connection
    if kind == "position":
        return _parse_number(kind, value, record.log.size)
    if kind == "version":
        version = _parse_number(kind, value, store.version)
    else:
        version = log.version_at_time(connection, _parse_time(value))
    return log.position_at_version(connection, record.list, version)


def resolve_cuts(store: Store, record: ListRecord | None, text: str | None) -> Cuts | None:
    """Return the point in history that a question about one list, or about all, refers to.

    Args:
        store: where the lists are.
        record: the one list; None for all.
        text: as `resolve_as_of`; None for now.

    Returns:
        None for all lists now.

    Raises:
        CommandError: as `resolve_as_of`, or it is a position without a list.
        DamageError: the one list is damaged here.
    """
    if record is not None:
        damage.require_sound(store.path, str(record.origin))
    if text is None:
        return None if record is None else {record.span: NOW}
    if record is not None:
        return dict([_cut(store, record, text)])
    if text.startswith("position:"):
        raise CommandError(
            f"{text} needs the name of a list",
            hint="name it with --list; version:N and time:T work for all lists",
        )
    records = list(lists.iter_lists(store.connection))
    return dict(_cut(store, held, text) for held in records)


def _cut(store: Store, record: ListRecord, text: str) -> tuple[int, int]:
    """Return the span that holds a list at a point, and how many deltas count."""
    size = resolve_as_of(store, record, text)
    return covering_span(store, record, size).span, size


def _parse_number(kind: str, text: str, newest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise CommandError(f"{kind}: got {text[:40]!r}, expected a number such as {kind}:{newest}")
    number = int(text)
    if number > newest:
        raise CommandError(f"{kind} {number} is not reached yet: the newest is {newest}")
    return number


def _parse_time(text: str) -> int:
    """Parse a time into milliseconds since 1970."""
    if _RFC3339.fullmatch(text) is None:
        missing = "" if text.endswith(("Z", "z")) else ", with Z or an offset such as +01:00"
        raise CommandError(f"time: got {text[:40]!r}, expected RFC 3339{missing}")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise CommandError(f"time: {text!r} is not a time: {error}") from error
    return (moment - _EPOCH) // timedelta(milliseconds=1)
