"""Compares every answer of a node with a list that is kept in plain dictionaries."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from federation.entry import EntryId, OpKind
from federation.errors import FederationError
from federation.fingerprint import Fingerprint
from federation.follow import FollowState
from node.errors import CommandError
from node.formats.jsonl import Format
from node.query import lookup, provenance
from node.query.as_of import resolve_as_of, resolve_cuts
from node.query.export import export
from node.store import follow_state, log
from node.store.lists import ListRecord
from tests.node.support.plain_list import PROBES, Moment, PlainList
from tests.node.support.restartable_nodes import Node

_LOOKED_BACK = 5
"""Versions and positions of the past that are compared each time."""


@dataclass
class Known:
    """What is known of a node from before.

    Attributes:
        acknowledged: how many deltas it has said that it has.
        size: how many it had.
        spans: the parts of the log that it can tell of: (first size, last size) of each.
        sizes: how many deltas it had at each version of its store.
    """

    acknowledged: int = 0
    size: int = 0
    spans: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    sizes: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Known:
        """Return the same, to be kept."""
        return Known(self.size, self.size, list(self.spans), dict(self.sizes))

    def note(self, node: Node, plain: PlainList) -> None:
        """Take in where the node stands now."""
        log_state = node.record.log
        size = log_state.size
        # A snapshot says what is so after its own leaf.
        start = log_state.start + 1 if log_state.start else 0
        assert size >= self.acknowledged, "what was acknowledged is lost"
        if start != self.spans[-1][0]:
            assert plain.is_snapshot(log_state.start)
            assert log_state.start >= self.size
            self.spans.append((start, size))
        self.spans[-1] = (start, size)
        self.size = size
        self.sizes[node.store.version] = size

    def covers(self, size: int) -> bool:
        """Say whether the node can tell what was so after so many deltas."""
        return any(first <= size <= last for first, last in self.spans)


def check_answers(node: Node, plain: PlainList, known: Known) -> None:
    """Assert that a node says what it has to."""
    record = node.record
    size = record.log.size
    assert size <= len(plain.log)
    now = plain.moments[size]
    assert record.log.live_count == len(now.live)
    assert record.log.state_digest == now.state_digest()
    status = follow_state.load_follow_status(node.store.connection, record.list)
    assert status.state is not FollowState.QUARANTINED
    _check_bytes(node, record, plain)
    _check_versions(node, record, known)
    sizes = {0, 1, size // 2, *range(max(0, size - _LOOKED_BACK), size + 1)}
    for past in sorted(sizes & set(range(size + 1))):
        _check_export(node, record, plain.moments[past], past, covered=known.covers(past))
    _check_lookups(node, record, now, None)
    for past in {size // 2, max(0, size - 1)}:
        if known.covers(past):
            _check_lookups(node, record, plain.moments[past], past)
    for entry in now.kinds:
        _check_shown(node, record, plain, known, entry)


def _check_bytes(node: Node, record: ListRecord, plain: PlainList) -> None:
    connection = node.store.connection
    for held in log.iter_records(connection, record.list, 0, record.log.size):
        body = log.load_body_bytes(connection, record.list, held.position)
        assert (held.header, body, held.checkpoint) == plain.log[held.position]


def _check_versions(node: Node, record: ListRecord, known: Known) -> None:
    times = node.store.connection.execute("SELECT committed_ms FROM version ORDER BY version")
    assert all(one[0] <= other[0] for one, other in pairwise(times))
    for version in sorted(known.sizes)[-_LOOKED_BACK:]:
        assert resolve_as_of(node.store, record, f"version:{version}") == known.sizes[version]


def _check_export(
    node: Node, record: ListRecord, then: Moment, size: int, *, covered: bool
) -> None:
    out = io.BytesIO()
    if covered:
        export(node.store, record, size, Format.JSONL, out)
        assert out.getvalue() == then.exported()
    else:
        with pytest.raises(CommandError, match="snapshot replaced the deltas"):
            export(node.store, record, size, Format.JSONL, out)


def _check_lookups(node: Node, record: ListRecord, then: Moment, size: int | None) -> None:
    """Ask for every fingerprint that any entry could have."""
    stating: dict[Fingerprint, set[EntryId]] = {}
    for entry, operation in then.live.items():
        for fingerprint in operation.fingerprints:
            stating.setdefault(fingerprint, set()).add(entry)
    asked = {item.format(): item for item in PROBES}
    cuts = resolve_cuts(node.store, record, None if size is None else f"position:{size}")
    for text, found in lookup.lookup_many(node.store, asked, cuts):
        assert not isinstance(found, FederationError)
        expected = {
            (then.places[entry][0], then.live[entry]) for entry in stating.get(asked[text], ())
        }
        assert {(match.position, match.operation) for match in found} == expected
        assert len(found) == len(expected)


def _check_shown(
    node: Node, record: ListRecord, plain: PlainList, known: Known, entry: EntryId
) -> None:
    said = plain.versions(entry, record.log.size)
    is_whole = len(known.spans) == 1 and known.spans[0][0] == 0
    try:
        shown = provenance.show(node.store, record, entry.format())
    except CommandError:
        # A snapshot went past all that was ever said of it.
        assert not is_whole
        assert said[-1][2].kind is not OpKind.ASSERT
        return
    (versions,) = [some for some in shown if some[0].operation.entry == entry]
    places = [(item.position, item.row, item.operation) for item in versions]
    ends = [later[0] for later in said[1:]] + [None]
    if is_whole:
        assert places == said
        assert [item.until for item in versions] == ends
    elif said[-1][2].kind is OpKind.ASSERT:
        assert places[-1] == said[-1]
        assert versions[-1].until is None
