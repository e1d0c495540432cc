"""Who speaks for whom: org roots, charters.

Rooms:
    orgroot  which keys speak for an organization
    charter  what a list is and whom it may reach
"""
