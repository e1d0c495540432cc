"""What docs/spec/ says in tables is what the code does."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from federation import header, limits
from federation.errors import Reason
from federation.hashtypes import HASH_TYPES
from federation.header import HEADER_BYTES, Header, LeafKind
from federation.keys import key_id
from federation.trust import charter, orgroot
from tests.federation import buckets, offers
from tests.federation.forgeries import CASES, FAULTS
from tests.federation.worlds import signing_key

SPEC = Path(__file__).parents[2] / "docs" / "spec"
PAGES = sorted(SPEC.glob("*.md"))


def table(page: str, *columns: str) -> list[list[str]]:
    """Return the rows of the one table of a page with these columns."""
    tables: list[list[list[str]]] = [[]]
    for line in (SPEC / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    (found,) = [rows for rows in tables if rows and rows[0] == list(columns)]
    return found[2:]


def code(cell: str) -> str:
    """Return the text of a cell that holds one piece of code."""
    match = re.fullmatch(r"`([^`]+)`", cell)
    assert match is not None, cell
    return match[1]


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


# --- the header -------------------------------------------------------------------------------

KEY = signing_key("header of the specification")
# Every byte of every field differs from its neighbours in other fields.
HEADER = Header(
    origin_hash=sha256(b"1").digest(),
    position=0x1112131415161718,
    previous=sha256(b"2").digest(),
    change_set=0x1011121314151617,
    ends_change_set=True,
    time_ms=0x2122232425262728,
    op_count=0x2627,
    body_size=0x0F3132,
    body_digest=sha256(b"3").digest(),
    ops_root=sha256(b"4").digest(),
    live_count=0x4142434445464748,
    state_digest=sha256(b"5").digest(),
    root_version=0x51525354,
    root_hash=sha256(b"6").digest(),
    key_id=key_id(KEY.public_key),
)
LAYOUT = [
    (number(offset), number(size), code(name))
    for offset, size, name, _ in table("delta.md", "offset", "bytes", "field", "content")
]


def test_the_fields_of_the_header_follow_each_other_to_its_end() -> None:
    at = 0
    for offset, size, _ in LAYOUT:
        assert offset == at
        at += size
    assert at == HEADER_BYTES == 335


def test_every_field_stands_where_the_specification_says() -> None:
    record = HEADER.sign(KEY)
    at = {name: record[offset : offset + size] for offset, size, name in LAYOUT}
    assert at.pop("version") == b"\x01"
    assert at.pop("kind") == b"\x01"
    assert at.pop("flags") == b"\x01"
    assert len(at.pop("signature")) == 64
    for name, raw in at.items():
        value = getattr(HEADER, name)
        assert raw == (value if isinstance(value, bytes) else value.to_bytes(len(raw), "big")), name
    assert set(at) == set(Header.__dataclass_fields__) - {"kind", "ends_change_set"}


def test_the_kinds_of_a_header_are_those_of_the_specification() -> None:
    (content,) = [
        text
        for _, _, name, text in table("delta.md", "offset", "bytes", "field", "content")
        if code(name) == "kind"
    ]
    assert content == ", ".join(f"{kind}: {kind.name.lower()}" for kind in LeafKind)


def test_every_signed_object_has_the_media_type_of_the_specification() -> None:
    types = {code(cell) for _, cell in table("README.md", "signed", "media type")}
    assert types == {header.MEDIA_TYPE, orgroot.MEDIA_TYPE, charter.MEDIA_TYPE}


# --- the order of checks ----------------------------------------------------------------------

STEPS = [
    re.findall(r"`([A-Z_]+)`", cell) for _, _, cell in table("delta.md", "step", "check", "reasons")
]


def test_the_steps_name_every_reason_for_which_a_delta_is_refused() -> None:
    named = {Reason(reason) for step in STEPS for reason in step}
    assert named == {case.reason for case in CASES.values()}


def test_the_steps_are_in_the_order_in_which_faults_are_found() -> None:
    """The faults are those that the replica's tests combine two by two."""
    first = {
        reason: min(at for at, step in enumerate(STEPS) if reason in step) for reason, _ in FAULTS
    }
    assert list(first.values()) == sorted(first.values())
    assert len(first) == len(FAULTS)


SNAPSHOT_STEPS = [
    re.findall(r"`([A-Z_]+)`", cell)
    for _, _, cell in table("snapshot.md", "step", "check", "reasons")
]


def test_the_steps_name_every_reason_for_which_a_snapshot_is_refused() -> None:
    named = {Reason(reason) for step in SNAPSHOT_STEPS for reason in step}
    reasons = {case.reason for case in offers.CASES.values()}
    reasons |= {case.reason for case in buckets.CASES.values()}
    assert named == reasons | {case.reason for case in offers.TRANSFERS.values()}


def test_the_steps_of_a_snapshot_are_in_the_order_in_which_faults_are_found() -> None:
    for faults in (offers.FAULTS, offers.NEXT_FAULTS):
        steps = iter(SNAPSHOT_STEPS)
        for reason, _ in faults:
            assert any(reason in step for step in steps), reason


# --- limits, hash types, pages ----------------------------------------------------------------


def test_the_limits_are_those_of_the_code() -> None:
    documented = {
        code(name): number(value)
        for name, value, _ in table("sync.md", "limit", "value", "of what")
        for name, value, _ in table("sync.md", "limit", "value", "of what")
    }
    assert documented == {name: value for name, value in vars(limits).items() if name.isupper()}


def test_the_hash_types_are_those_of_the_registry_in_their_order() -> None:
    columns = ("type", "equality means", "bytes", "text forms, the canonical one first")
    documented = [(code(name), *rest) for name, *rest in table("hash-types.md", *columns)]
    assert documented == [
        (known.name, known.kind, known.describe_widths(), ", ".join(known.forms))
        for known in HASH_TYPES.values()
    ]


def test_every_reason_that_a_page_names_exists() -> None:
    words = {
        word
        for page in PAGES
        for word in re.findall(r"\(`([A-Z][A-Z_]+)`[,)]", page.read_text(encoding="utf-8"))
    }
    assert words
    assert words <= set(Reason)


def test_the_index_names_every_page() -> None:
    index = (SPEC / "README.md").read_text(encoding="utf-8")
    assert all(f"({page.name})" in index for page in PAGES if page.name != "README.md")
