"""Every bound on what a peer can send, in one place, with its unit and its reason.

A bound is part of the protocol: two nodes with different bounds would disagree on what is valid.
"""

from __future__ import annotations

from typing import Final

# --- deltas -----------------------------------------------------------------------------------
MAX_BODY_OPS: Final = 10_000
"""Operations in one delta. Bounds the time of one merge step and an op proof (14 hashes)."""

MAX_BODY_BYTES: Final = 1024 * 1024
"""Bytes of one delta body. One body and its envelope fit one gRPC message with room to spare."""

MAX_BODY_GROUPS: Final = 4_096
"""Column groups in one body. A group is decoded as an object; rows are not."""

MAX_BODY_COLUMNS: Final = 8_192
"""Columns of all groups of one body together. Each is one statement to a reader's database."""

MAX_ANNOTATIONS: Final = MAX_BODY_OPS
"""Distinct annotations in one body: more than one for each operation would be useless."""

# --- snapshots --------------------------------------------------------------------------------
MAX_BUCKET_ENTRIES: Final = 8_192
"""Entries in one bucket of a snapshot: what one step of a transfer brings."""

MAX_BUCKET_WEIGHT: Final = 768 * 1024
"""Bytes at which a bucket is closed, counted as in docs/spec/snapshot.md. A larger entry has a
bucket of its own."""

MAX_BUCKET_BYTES: Final = 2 * 1024 * 1024
"""Bytes of one encoded bucket: one gRPC message."""

MAX_SNAPSHOT_BUCKETS: Final = 100_000
"""Buckets of one snapshot: their hashes fit one message; up to 800 million entries."""

MAX_BUCKETS_ASKED: Final = 1_024
"""Buckets that one call asks for."""

# --- one entry --------------------------------------------------------------------------------
MAX_ENTRY_FINGERPRINTS: Final = 64
"""Fingerprints of one entry. An item has a handful; variants of one image a few dozen."""

MAX_ENTRY_ID_BYTES: Final = 255
"""Bytes of an entry id in UTF-8: a UUID, a URN or another system's composite key fits."""

MAX_LABELS: Final = 32
"""Labels of one entry."""

MAX_LABEL_BYTES: Final = 128
"""Bytes of one label in UTF-8."""

MAX_REASON_BYTES: Final = 1_024
"""Bytes of the reason in UTF-8: a sentence or two, never a report about a person."""

MAX_VOCABULARY_BYTES: Final = 128
"""Bytes of the name of the vocabulary that the labels come from."""

MAX_DIGEST_BYTES: Final = 300_000
"""Bytes of one digest: a TMK+PDQF signature (263,344) is the largest known."""

# --- names ------------------------------------------------------------------------------------
MAX_ORG_BYTES: Final = 253
"""Bytes of an organization's name, which is a DNS name (RFC 1035)."""

MAX_LIST_BYTES: Final = 63
"""Bytes of a list's name."""

MAX_HASH_TYPE_BYTES: Final = 31
"""Bytes of the name of a hash type."""

# --- signed documents -------------------------------------------------------------------------
MAX_NOTE_BYTES: Final = 64 * 1024
"""Bytes of a signed note. A checkpoint with a hundred cosignatures has under 20 KiB."""

MAX_NOTE_SIGNATURES: Final = 100
"""Signature lines of a note: signed-note asks for at least 16; Go's verifier refuses over 100."""

MAX_DOCUMENT_BYTES: Final = 64 * 1024
"""Bytes of an org root or a list charter with its envelope."""

MAX_DOCUMENT_SIGNATURES: Final = 16
"""Signatures on an org root or a list charter."""

MAX_ROLE_KEYS: Final = 16
"""Keys of one role in an org root."""

MAX_ROLES: Final = 16
"""Roles in an org root: there are few kinds, and each has one."""

MAX_CERTIFICATES: Final = 64
"""TLS certificates in an org root: the current and the next one of some nodes."""

MAX_AUDIENCE_ORGS: Final = 1_024
"""Organizations that one list charter names."""

MAX_INVITATION_BYTES: Final = 256 * 1024
"""Bytes of an invitation file."""

# --- transport --------------------------------------------------------------------------------
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one gRPC message, either way."""

FRAME_TARGET_BYTES: Final = 1024 * 1024
"""Bytes at which a sender closes a frame: a frame is at most this plus one delta."""

MAX_FRAME_DELTAS: Final = 1_024
"""Deltas in one frame: bounds the signatures that one message makes a reader check."""

MAX_PAGE_LISTS: Final = 256
"""Lists in one answer of ListLogs."""

MAX_PROOF_HASHES: Final = 64
"""Hashes of one Merkle proof: a log of 2^32 leaves needs at most 33."""

MAX_OTHER_FIELDS: Final = 256
"""Fields of one protobuf message besides the elements of its repeated fields. This leaves room for
a later version, and bounds the time in which fields are counted."""

MAX_FOLLOWED_LISTS: Final = 1_024
"""Cursors in one Follow call."""

MAX_CLOCK_SKEW_MS: Final = 5 * 60 * 1000
"""Milliseconds by which a peer's clock may run ahead of ours."""

# --- numbers ----------------------------------------------------------------------------------
MAX_TREE_SIZE: Final = 2**32 - 1
"""Leaves of a log. A position and a size fit into 32 bits: a node may keep a leaf under one integer
made of the number of its list and its position. One leaf a second would take 136 years."""

MAX_LIVE_ENTRIES: Final = MAX_SNAPSHOT_BUCKETS * MAX_BUCKET_ENTRIES
"""Live entries of a list: what a snapshot can hold."""

MAX_TIME_MS: Final = 253_402_300_799_999
"""Milliseconds since 1970-01-01T00:00:00Z: the end of the year 9999, where RFC 3339 ends."""

MAX_VERSION: Final = 2**31 - 1
"""Versions of an org root or a list charter."""
