"""The gRPC server that peers call. Knows nothing of what this node follows.

Rooms:
    server        the gRPC server and all its limits
    tls           who may open a connection
    peers         whose certificate opened it
    interceptors  layers around every call: identity, limits, deadlines, statuses
    call          one call on its way through them
    status        an error as the status of a call
    log_servicer  the service that peers call
    health        gRPC health checks, for peers
    access        what a peer may read here
    follow        how one stream stands to each of its lists
    heads         where all lists stand, read once for all streams
    frames        deltas as the bytes that are sent, made once for many streams
    readers       threads that read the store for the event loop
    wakeups       wakes streams that wait
"""
