"""From staged changes to signed, committed and released deltas.

Rooms:
    sign        staged changes become signed deltas
    bodies      the bodies of the next deltas
    snapshot    makes snapshots; signs them, or makes them again to serve them
    permit      whether a list of ours may be signed for now
    high_water  what may have been released of our lists, kept outside of the store
"""
