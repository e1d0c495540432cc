"""Everything stored against what was signed, as a whole or in slices.

Rooms:
    check      a whole check, or one that goes on where it was interrupted
    lists      one list: its root, its charter, each snapshot and each span
    leaves     the leaves of a span, and the index rows that they made
    snapshots  the snapshots of a list, and their buckets
    scope      what the parts of a list's check share
    records    what is recorded beside the lists, and the tables themselves
    journal    how far a check has come
    scrub      the check in slices, in the background of `serve`
"""
