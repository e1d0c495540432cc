"""Takes in what peers send: verifies it, then commits it with all that follows from it.

Rooms:
    deltas        a peer's deltas are verified, merged, committed
    snapshot      a snapshot arrives bucket by bucket and is put in force in one step
    single_delta  one delta, fetched to show where an entry of a snapshot comes from
    checks        checks behind acceptance
"""
