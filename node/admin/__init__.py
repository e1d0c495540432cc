"""Whom this node knows, and which lists it owns and follows.

Rooms:
    peers  this node and its peers
    lists  lists, audiences, following
"""
