"""Answers from the store. Reads only.

Rooms:
    lookup      assertions in force that have a hash
    provenance  where an entry comes from
    status      where each list stands; its log
    as_of       points in time as people write them
    diff        what became of each entry between two points
    export      a list as of a point, sorted
"""
