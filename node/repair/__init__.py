"""Replaces a damaged store by a new one, made from what can be read of it and from peers.

Rooms:
    repair      makes the new store and puts it in the place of the damaged one
    records     copies what belongs to no list
    lists       which lists there are; what is copied of a list as it was read
    rebuild     rebuilds one list: its spans, then where it stands, then its charter
    snapshots   the snapshot that a span begins with, and those that are served
    leaves      the log of one list, leaf by leaf
    peers       gets from peers what is damaged here
    work        what the rebuilding of one list works with
    verify      what counts as signed, stored here or sent by a peer
    bitflips    finds the one bit that has flipped
    salvage     reads what can be read of the damaged store
    first_page  gives a copy of a damaged store another first page
"""
