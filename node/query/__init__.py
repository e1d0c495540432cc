"""Answers from the store. Reads only.

Rooms:
    lookup      assertions in force that have a hash
    provenance  where an entry comes from
    status      the state of each list, and its log
    as_of       points in time as people write them
    diff        how each entry changed between two points
    export      a list as of a point, sorted
"""
