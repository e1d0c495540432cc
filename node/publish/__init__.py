"""From staged changes to signed, committed and released deltas.

Rooms:
    sign        turns staged changes into signed deltas
    bodies      composes the bodies of the next deltas
    snapshot    makes snapshots: new ones to sign, or older ones again to serve them
    permit      decides whether we may sign for one of our lists now
    high_water  what may have been released of our lists, kept outside the store
"""
