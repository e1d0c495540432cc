"""What a node says of itself while it runs.

Rooms:
    logs     structured events on stderr
    metrics  Prometheus metrics and their port
"""
