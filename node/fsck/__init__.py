"""Everything stored against what was signed, as a whole or in slices.

Rooms:
    check    a whole check, or one that goes on where it was interrupted
    lists    one list: every part of every leaf, bucket and index row
    records  what is recorded beside the lists, and the tables themselves
    journal  how far a check has come
    scrub    the check in slices, in the background of `serve`
"""
