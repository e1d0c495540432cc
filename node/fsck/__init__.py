"""Checks everything stored against the signed bytes, as a whole or in slices.

Rooms:
    check      a complete check, or the rest of an interrupted one
    lists      one list: its root, its charter, each snapshot and each span
    leaves     the leaves of a span, and the index rows that they made
    snapshots  the snapshots of a list, and their buckets
    scope      the state that the parts of a list's check share
    records    the records that belong to no list, and the tables themselves
    journal    the progress of a check
    scrub      the check in slices, in the background of `serve`
"""
