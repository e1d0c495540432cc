"""`hashfed serve`: puts the node together.

Rooms:
    serve  starts, runs and stops all parts; work in the background
"""
