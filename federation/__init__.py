"""The hashfed protocol, without I/O: bytes in, values or events out.

Knows nothing of sockets, files, databases, clocks and sources of randomness: time and random
bytes are arguments. Needs protobuf and PyNaCl only.

Rooms:
    names        organizations, lists, origins: parsed once, strictly
    limits       every bound on what a peer can send
    errors       every error of the protocol, with its stable reason
    hashtypes    hash types: widths, strength, text forms
    fingerprint  a type and a digest; digests that no list may carry
    entry        entry ids, annotations, one operation
    body         many operations as columns; the Merkle tree over them
    rows         single operations of a serialized body, by slices
    header       the fixed-width signed record that is a leaf of the log
    commitment   what a header commits to, as far as it follows from a body alone
    bucket       the live set in pieces: where they are cut, and their one encoding
    snapshot     a leaf that commits to the live set; its buckets checked as they arrive
    state        the state digest of a list's live set
    merge        merge rules: a delta and what was in force before it
    merkle       RFC 6962 trees: roots, proofs, the right edge of a growing tree
    logtail      proofs from the end of a log whose beginning is not held
    note         C2SP signed notes
    checkpoint   C2SP checkpoints: origin, size and root of a log as a note
    keys         Ed25519 by libsodium; which public keys are admitted
    dsse         envelopes: type and bytes are signed, never a re-encoding
    replica      a list's log as a subscriber checks it
    diagnosis    which parts of a stored leaf are not what was signed
    author       makes signed deltas and snapshots
    recovery     whether a publisher may sign its next position, and if not, why
    wire         protobuf messages to values and back; alone with the generated code
"""
