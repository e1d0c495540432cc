"""Answers for any hash, entry, list and time: who asserted this, when, and how it came here.

Reads only. Every answer comes from the stored signed bytes, found through the index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Final, NamedTuple

from federation.body import PackedOp, Shape, unpack
from federation.entry import Operation, OpKind
from federation.errors import FederationError, FingerprintError
from federation.fingerprint import Fingerprint, candidates
from federation.names import Origin
from node.errors import DamageError
from node.query.provenance import EntryReader, read_foreign
from node.store import damage, index, lists
from node.store.connection import Store
from node.store.index import Cuts
from node.store.sqlite import sqlite3

_LOOKUP_BATCH: Final = 100_000
"""How many hashes are looked up together. For a large list, some hundred are in one body."""


class Match(NamedTuple):
    """An assertion in force that has a fingerprint.

    Attributes:
        origin: the list that it is in.
        position: its position in the list's log.
        row: its row in that delta.
        fingerprint: the fingerprint that was asked for.
        packed: the assertion, as it is packed in the signed body.
    """

    origin: Origin
    position: int
    row: int
    fingerprint: Fingerprint
    packed: PackedOp

    @property
    def operation(self) -> Operation:
        """The assertion."""
        return unpack(self.packed)


LookupResult = list[Match] | FederationError
"""The matches of a hash, or why the text is not a hash."""

_Column = tuple[str, int]
"""Hash type and bytes of one digest."""

_Asked = tuple[Fingerprint, list[Match]]
"""A fingerprint that is looked up, and where its matches go."""


def lookup(store: Store, text: str, cuts: Cuts | None = None) -> list[Match]:
    """Return the assertions in force, in all lists, that have a hash.

    Args:
        store: where to look.
        text: a hash as `<type>:<digest>`, or a digest alone, which is looked up as each type that
            it could be.
        cuts: the point in history that is asked about; None for now.

    Raises:
        FingerprintError: it is not a hash.
        DamageError: the index and the signed bytes disagree; or nothing was found, and a list that
            may contain it is damaged.
    """
    ((_, answer),) = _answer(store, [text], cuts)
    if isinstance(answer, FederationError):
        raise answer
    if not answer:
        for origin in withheld(store):
            damage.require_sound(store.path, origin)
    return answer


def withheld(store: Store) -> list[str]:
    """Return the lists that are known to be damaged: a lookup finds nothing in them."""
    known = damage.load(store.path)
    if not known.damages:
        return []
    origins = [origin for _, origin in lists.iter_origins(store.connection)]
    return [origin for origin in origins if known.of(origin) is not None]


def lookup_many(
    store: Store, texts: Iterable[str], cuts: Cuts | None = None
) -> Iterator[tuple[str, LookupResult]]:
    """Yield (text, matches or what is wrong with the text) for each text, in order.

    Takes many texts at a time, so that each body is read once for all of its matches in a batch. A
    hash that is not found may still be in a list that is `withheld`.

    Raises:
        DamageError: as `lookup`.
    """
    waiting = iter(texts)
    while batch := list(islice(waiting, _LOOKUP_BATCH)):
        yield from _answer(store, batch, cuts)


def _answer(
    store: Store, texts: list[str], cuts: Cuts | None
) -> Iterator[tuple[str, LookupResult]]:
    # For each text and each fingerprint that it can be, where the matches go.
    wanted: list[tuple[list[Match], ...] | FederationError] = []
    asked: defaultdict[_Column, dict[bytes, _Asked]] = defaultdict(dict)
    with store.snapshot() as connection:
        for text in texts:
            try:
                fingerprints = _read_hash(connection, text, cuts)
            except FederationError as error:
                wanted.append(error)
                continue
            found = []
            for fingerprint in fingerprints:
                digest = fingerprint.digest
                alike = asked[fingerprint.type, len(digest)]
                question = alike.get(digest)
                if question is None:
                    question = alike[digest] = (fingerprint, [])
                found.append(question[1])
            wanted.append(tuple(found))
        reader = EntryReader(connection)
        hidden = set(withheld(store))
        for column, questions in asked.items():
            _find_matches(connection, reader, column, questions, cuts, hidden)
    for text, readings in zip(texts, wanted, strict=True):
        if isinstance(readings, FederationError):
            yield text, readings
            continue
        answer = readings[0] if len(readings) == 1 else list(chain.from_iterable(readings))
        if len(answer) > 1:
            answer.sort(key=_by_list)
        yield text, answer


def _find_matches(
    connection: sqlite3.Connection,
    reader: EntryReader,
    column: _Column,
    asked: Mapping[bytes, _Asked],
    cuts: Cuts | None,
    hidden: Collection[str],
) -> None:
    """Add the matches of digests of one type and width to the questions."""
    type_name, width = column
    shape: Shape | None = None
    offsets: Sequence[int] = ()
    # By place, so that each body and bucket is read once.
    found = sorted(index.find_many(connection, type_name, asked, cuts))
    if hidden:
        found = [place for place in found if str(reader.origin(place[0])) not in hidden]
    operations = reader.contents.iter_packed(found)
    for (span, _, position, row, digest), packed in zip(found, operations, strict=True):
        fingerprint, matches = asked[digest]
        # Neighbors share it.
        if packed.shape is not shape:
            shape = packed.shape
            offsets = shape.offsets(type_name, width) if shape.kind is OpKind.ASSERT else ()
        record = packed.record
        for at in offsets:
            if record[at : at + width] == digest:
                matches.append(Match(reader.origin(span), position, row, fingerprint, packed))
                break
        else:
            # A longer digest is found by its SHA-256, which may equal a digest of another type.
            if width <= index.LONGEST_KEY:
                raise DamageError(
                    f"position {position} of {reader.origin(span)} and the index disagree about "
                    f"{fingerprint.format()}",
                    hint="run 'hashfed fsck'",
                )


def _by_list(match: Match) -> tuple[Origin, int, int]:
    # The order is the same on every node, however it numbers its lists and got their content.
    return match.origin, match.position, match.row


def _read_hash(
    connection: sqlite3.Connection, text: str, cuts: Cuts | None
) -> tuple[Fingerprint, ...]:
    """Return the fingerprints that a text can be, also of a type that only a list here has."""
    try:
        return candidates(text)
    except FingerprintError as error:
        fingerprint = read_foreign(text)
        # It is more likely mistyped than of a type that nobody here has heard of.
        if fingerprint is None or not index.find_fingerprint(connection, fingerprint, cuts):
            raise error from None
        return (fingerprint,)


# --- logs and status --------------------------------------------------------------------------
