"""The gRPC server that peers call. Knows nothing of what this node follows.

Rooms:
    server        the gRPC server and all its limits
    tls           who may open a connection
    peers         who calls, by the certificate of the connection
    interceptors  layers around every call: identity, limits, deadlines, statuses
    call          one call on its way through them
    status        turns an error into the status of a call
    log_servicer  the service that peers call
    health        gRPC health checks, for peers
    access        what a peer may read here
    follow        what one stream still has to send of each of its lists
    heads         the heads of all lists, read once for all streams
    frames        deltas as the bytes that are sent, made once for many streams
    readers       threads that read the store for the event loop
    wakeups       wakes waiting streams
"""
