"""The hashfed protocol, without I/O: bytes in, values or events out.

This package does not know sockets, files, databases, clocks or sources of randomness: time and
random bytes are arguments. It needs protobuf and PyNaCl only.

Rooms:
    names        organizations, lists, origins: parsed once, strictly
    limits       every bound on what a peer can send
    errors       every error of the protocol, with its stable reason
    hashtypes    hash types: widths, strength, text forms
    fingerprint  a hash type and a digest; digests that no list may carry
    entry        entry ids, annotations, one operation
    body         many operations as columns, and the Merkle tree over them
    rows         reads single operations of a serialized body
    header       the fixed-width signed record that is a leaf of the log
    commitment   the part of a header's commitments that follows from a body alone
    bucket       the live set in pieces: where it is cut, and the one encoding of a piece
    snapshot     a leaf that commits to the live set; checks of its buckets as they arrive
    state        the state digest of a list's live set
    merge        merge rules for a delta and the operations in force before it
    merkle       RFC 6962 trees: roots, proofs, the right edge of a growing tree
    logtail      proofs from the end of a log whose beginning is not here
    note         C2SP signed notes
    checkpoint   C2SP checkpoints: origin, size and root of a log as a note
    keys         Ed25519 by libsodium; checks which public keys are admitted
    dsse         envelopes, which sign a type and bytes, never a re-encoding
    replica      checks a list's log as a subscriber does
    diagnosis    finds which parts of a stored leaf are not what was signed
    author       makes signed deltas and snapshots
    recovery     decides whether a publisher may sign its next position
    fields       parses protobuf messages, after counting their fields
    wire         converts protobuf messages to values and back; only it uses generated code
"""
