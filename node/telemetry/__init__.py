"""What a node reports about itself while it runs.

Rooms:
    logs     structured events on stderr
    metrics  Prometheus metrics and the port that serves them
"""
