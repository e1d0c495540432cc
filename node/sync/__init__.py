"""The gRPC client that follows peers' lists. Knows nothing of who calls this node.

Rooms:
    client         calls one peer
    failures       what a failed call says of the peer
    scheduler      which peers are followed; a session for each
    session        follows all lists of one peer by one stream
    intake         what one stream does to its lists
    buffer         what has come and is not written yet, bounded
    writer         the one thread that writes what is fetched
    join           fetches the buckets of a snapshot from every peer that has them
    fetch_delta    fetches single deltas that a snapshot went past
    repair_source  asks peers for signed bytes that are damaged here
    ask            asks peers which checkpoints of our lists they hold
    recover        fetches from peers what is missing of our own lists
    own_lists      keeps our own lists fit to be signed for while `serve` runs
"""
