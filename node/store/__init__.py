"""One SQLite file and the files beside it. Versioned; accepted data is never overwritten.

Rooms:
    sqlite        which SQLite is in use
    schema        the tables of the store
    migrations    builds the tables, or takes the steps that an older store lacks
    connection    opens the store; transactions and their versions
    copies        names of copies beside a store, and of stores that were replaced
    damage        known damage, in a file beside the store
    orgs          this node's organization, pinned roots, peers
    lists         the lists that this node owns or follows
    follow_state  how following a list goes
    release       how much of our own lists may leave; which store this is
    log           the signed bytes of every delta, verbatim
    trees         the Merkle tree of a log, from the leaves that are here
    index         fingerprints and names, and which operations are in force
    runs          the tiers of the index: new rows at random places wait to be merged
    by_name       brings live entries into the order of their names
    contents      what an operation says: from a body or a bucket
    spans         unbroken parts of a log that were applied here
    snapshots     snapshots that are here, and their buckets
    fetched       deltas fetched one by one, with their proofs
    history       a list at a position; changes between two positions
    consistency   reads the tables for a check of their consistency
    rebuild       fills a new store from the rows of a damaged one
"""
