"""A damaged store is replaced by one made from what is readable and from peers.

Rooms:
    repair    makes the new store and puts it in the place of the damaged one
    lists     which lists a damaged store has, and what is carried over as it is
    rebuild   one list, from what is stored and from peers
    records   what belongs to no list
    bitflips  which bit of some bytes has flipped
    salvage   reads what can be read of a damaged store
"""
