"""Replaces a damaged store with a new one, made from its readable parts and from peers.

Rooms:
    repair      makes the new store and puts it in the place of the damaged one
    records     copies the records that belong to no list
    lists       finds the lists; copies parts of a list as they were read
    rebuild     rebuilds one list: its spans, then its state and charter
    snapshots   rebuilds the snapshots that begin spans or are served
    leaves      rebuilds the log of one list, leaf by leaf
    peers       gets damaged parts from peers
    work        the data and tools for rebuilding one list
    verify      verifies parts that are stored here or come from peers
    bitflips    finds a single flipped bit
    salvage     reads the readable parts of the damaged store
    first_page  gives a copy of a damaged store another first page
"""
