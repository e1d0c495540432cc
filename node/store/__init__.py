"""One SQLite file and what lies beside it. Versioned; what was accepted is not overwritten.

Rooms:
    sqlite        which SQLite is in use
    schema        what lies in the store
    migrations    builds what lies in the store, or takes the steps that it lacks
    connection    opens the store; transactions and their versions
    copies        names of copies beside a store, and of stores that were replaced
    damage        what is known to be damaged, in a file outside of the store
    orgs          this node's organization, pinned roots, peers
    lists         the lists that this node owns or follows
    follow_state  how following a list goes
    release       what of our own lists may leave; which store this is
    log           the signed bytes of every delta, verbatim
    trees         the Merkle tree of a log, from the leaves that are here
    index         fingerprints and names, and what is in force
    runs          the index in tiers: new rows at random places wait to be merged
    by_name       brings live entries into the order of their names
    contents      what an operation says: from a body or a bucket
    spans         unbroken parts of a log that were applied here
    snapshots     snapshots that are here, and their buckets
    fetched       deltas fetched one by one, with their proofs
    history       a list at a position; what changed between two
    consistency   what the tables say of themselves and of each other, for a check
    rebuild       fills a new store from the rows of a damaged one
"""
