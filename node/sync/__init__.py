"""The gRPC client that follows peers' lists. Does not know who calls this node.

Rooms:
    client         calls one peer
    failures       what a failed call says about the peer
    scheduler      which peers are followed, with a session for each
    session        follows all lists of one peer with one stream
    intake         what one stream does to its lists
    patience       how long one `sync` waits for a peer
    buffer         what has arrived and is not written yet, bounded
    writer         the one thread that writes what is fetched
    join           fetches the buckets of a snapshot from every peer that has them
    fetch_delta    fetches single deltas that a snapshot has replaced
    repair_source  asks peers for signed bytes that are damaged here
    ask            asks peers which checkpoints of our lists they hold
    recover        fetches from peers what this node lacks of its own lists
    own_lists      keeps our own lists ready for signing while `serve` runs
"""
