"""`hashfed serve`: puts the node together.

Rooms:
    background  deferred checks, the scrub, the gauges
    serve       starts, runs and stops all parts
"""
